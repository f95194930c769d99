"""The three ways to load a student, as the code that a model card shows."""

from collections.abc import Callable, Mapping, Sequence

from distillery.models.bundle import BundleInfo
from distillery.models.export import INPUTS, file_name


def how_to_load(info: BundleInfo, files: Mapping[str, str]) -> list[str]:
    """Markdown lines with one block a way; `images` stands for what the caller has.

    Args:
        info: the student.
        files: exported files by name; a way without a file says how to get it.
    """
    shape = ", ".join(map(str, ("N", *info.spec.shape)))
    about = f"`images` is a float32 tensor ({shape}) of pixels in [0, 1]."
    bundle = (
        "from pathlib import Path",
        "",
        "from distillery.models.bundle import load_classifier",
        "",
        'student = load_classifier(Path("BUNDLE")).freeze()  # the folder with bundle.json; verifies the weights',
        "logits = student(images)",
    )
    return [
        about,
        *_way("As a bundle, with Distillery; the only way to train it further:", bundle),
        *_exported("pt2", "with torch alone", files, _pt2),
        *_exported("onnx", "with onnxruntime alone", files, _onnx),
    ]


def _pt2(name: str) -> Sequence[str]:
    return ("import torch", "", f'student = torch.export.load("{name}").module()', "logits = student(images)")


def _onnx(name: str) -> Sequence[str]:
    return (
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{name}", providers=["CPUExecutionProvider"])',
        '(logits,) = session.run(["logits"], {"images": images.numpy()})',
    )


def _exported(format: str, needs: str, files: Mapping[str, str], code: Callable[[str], Sequence[str]]) -> list[str]:
    """The float32 file, the uint8 one where it is the only one, else how to get one."""
    present = [name for name in (file_name(format, input) for input in INPUTS) if name in files]
    name = (present or [file_name(format, INPUTS[0])])[0]
    hint = "" if present else " (`distillery export-student` writes the file)"
    pixels = "; its pixels are uint8 in 0 to 255" if "uint8" in name else ""
    return _way(f"As {'ONNX' if format == 'onnx' else format}, {needs}{hint}{pixels}:", code(name))


def _way(title: str, code: Sequence[str]) -> list[str]:
    return ["", title, "", "```python", *code, "```"]
