"""A student as files that are served without Distillery."""

from collections.abc import Mapping, Sequence

from distillery.api.arguments import Place, new_folder
from distillery.api.process import visiting
from distillery.api.progress import silent
from distillery.api.teachers import bundle_at
from distillery.models.export import FORMATS, INPUTS, ExportedFile, export_student


def export(bundle: Place, out: Place, *, formats: Sequence[str] = FORMATS, inputs: Sequence[str] = INPUTS) -> Mapping[str, ExportedFile]:
    """Write a student as pt2 and as ONNX, normalisation inside; each file is run beside the bundle before the folder appears.

    Args:
        bundle: folder of the student's bundle, or its URI in a store.
        out: folder to write; an earlier export in it is replaced as a whole.
        formats: of `pt2` and `onnx`; ONNX needs `pip install 'distillery[export]'`.
        inputs: of `float32` (pixels in [0, 1]) and `uint8` (0 to 255); each format is written once for each.

    Returns:
        Each file by name, with its sha256, size and largest difference from the bundle's logits.

    Raises:
        DistilleryError: a network that cannot be traced, a format that is not allowed or not installed, a folder that holds something else.
    """
    written = new_folder(out)
    with visiting(silent), bundle_at(bundle) as folder:
        return export_student(folder, written, _several(formats), _several(inputs))


def _several(names: Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names
