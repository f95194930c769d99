"""A student leaves as pt2 and as ONNX: one file each, normalisation inside, compared with its bundle before anything is written."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from distillery.config import canonical_json
from distillery.documents import Format
from distillery.errors import ConfigError, StoreError
from distillery.extras import need
from distillery.foreign_code import guarded, named
from distillery.models.bundle import VerifiedBundle, publish
from distillery.provenance import Provenance, code_version, load_json, sha256_bytes
from distillery.types import Classifier

FORMAT = Format("distillery-student-export", 2, "export the student again")
"""Version 1 was called distillery-export, as that of a set was, which lists no files."""
_FIRST_NAME = "distillery-export"
DOCUMENT = "export.json"
FORMATS = ("pt2", "onnx")
INPUTS = ("float32", "uint8")
OPSET = 20
TOLERANCE = 1e-4
METADATA = "distillery"  # of an ONNX file's metadata; a pt2 has it as the extra file distillery.json

_DTYPES = {"float32": torch.float32, "uint8": torch.uint8}
_ONNX_LIMIT = 2**31 - 1  # protobuf holds no more in one file
_CHECKED_BATCHES = (1, 5)
_WITHOUT_ONNX = "leave this format out, pt2 holds what torch can run"
_log = logging.getLogger(__name__)


class ExportedFile(NamedTuple):
    """One file of an export.

    Attributes:
        sha256: of its bytes.
        bytes: its size.
        difference: largest difference from the bundle's logits on random images as it was written; None where nothing ran it, which is
            so for ONNX without onnxruntime, and for files that are no model.
    """

    sha256: str
    bytes: int
    difference: float | None = None


class ExportedClassifier(nn.Module):
    """A classifier behind one kind of input.

    Args:
        classifier: put into eval mode and frozen.
        input: "float32" takes pixels in [0, 1], "uint8" pixels in 0 to 255, which it divides by 255.
    """

    def __init__(self, classifier: Classifier, input: Literal["float32", "uint8"]) -> None:
        super().__init__()
        self.classifier = classifier.freeze()
        self.divide = input == "uint8"
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K), float32, of images (N, C, H, W)."""
        logits: Tensor = self.classifier(images.float() / 255 if self.divide else images)
        return logits.float()


def file_name(format: str, input: str) -> str:
    """Name of an exported file; the float32 one is the plain one."""
    return f"student.{format}" if input == "float32" else f"student.{input}.{format}"


def export_student(
    bundle: Path,
    out: Path,
    formats: Sequence[str] = FORMATS,
    inputs: Sequence[str] = INPUTS,
    texts: Callable[[Mapping[str, ExportedFile]], Mapping[str, str]] | None = None,
) -> dict[str, ExportedFile]:
    """Write a student for those who serve it.

    Equal bundles give equal bytes under equal versions of torch and onnx. The files hold no path of this machine and no object to
    unpickle: all that goes through `torch.load` is a plain tensor, the example image of a pt2. Every one is run against the bundle
    before the folder appears.

    Args:
        bundle: the student, verified first.
        out: the folder; it appears as a whole. An earlier export in it is replaced, anything else is refused.
        formats: of `FORMATS`; an ONNX file has opset `OPSET`.
        inputs: of `INPUTS`; each format is written once for each.
        texts: told the files, gives further ones by name, such as a model card.

    Returns:
        Each file by name, `export.json` last, which lists the others with their sha256 and says what goes in and out.

    Raises:
        ConfigError: an unknown format or input, a format that is not installed, a network that torch.export cannot follow, or a file with
            other logits than the bundle's.
        MissingResourceError: there is no bundle.
        CheckpointMismatchError: a bundle of a newer version, or weights that do not fit.
        StoreError: a damaged bundle, or a folder that cannot be written.
    """
    _check_known("format", formats, FORMATS)
    _check_known("input", inputs, INPUTS)
    if "onnx" in formats:
        need("export", "The format onnx")
    _check_target(out)
    opened = VerifiedBundle(bundle)
    info, sha256, classifier = opened.info, opened.sha256, opened.classifier
    contents: dict[str, bytes] = {}
    differences: dict[str, float | None] = {}
    for input in inputs:
        program = _trace(classifier, input, info.architecture.name)
        text = canonical_json({"architecture": info.architecture.to_json(), **describe(classifier, sha256, input)})
        for format in formats:
            name = file_name(format, input)
            contents[name], run = _WRITERS[format](program, text)
            differences[name] = _compare(run, classifier, input, name) if run else None
    files = {name: ExportedFile(sha256_bytes(data), len(data), differences[name]) for name, data in contents.items()}
    for name, text in (texts(files) if texts else {}).items():
        contents[name] = text.encode()
        files[name] = ExportedFile(sha256_bytes(contents[name]), len(contents[name]))
    contents[DOCUMENT] = _document(classifier, sha256, files, inputs)
    publish(out, contents, DOCUMENT, "export")
    return {**files, DOCUMENT: ExportedFile(sha256_bytes(contents[DOCUMENT]), len(contents[DOCUMENT]))}


def describe(classifier: Classifier, bundle_sha256: str, input: str) -> dict[str, Any]:
    """What goes into an exported file and what comes out, as plain JSON values; every file carries it."""
    return {
        "bundle_sha256": bundle_sha256,
        "class_names": list(classifier.class_names),
        "input": {
            "name": "images",
            "dtype": input,
            "shape": ["batch", *classifier.spec.shape],
            "range": [0, 255] if input == "uint8" else [0, 1],
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", classifier.num_classes]},
    }


def random_images(n: int, shape: tuple[int, int, int]) -> Tensor:
    """Images (n, C, H, W) uint8, in turn noise and smooth patches, because noise alone looks all the same to many networks.

    Args:
        n: how many.
        shape: (C, H, W).
    """
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand(n, *shape, generator=draws)
    patches = torch.rand(n, shape[0], 4, 4, generator=draws)
    smooth = nn.functional.interpolate(patches, size=shape[1:], mode="bilinear")
    chosen = (torch.arange(n) % 2 == 0).view(-1, 1, 1, 1)
    return torch.where(chosen, smooth, noise).mul(255).round().to(torch.uint8)


def _check_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given or len(set(given)) < len(given):
        raise ConfigError(f"{what} = {', '.join(given) or 'nothing'} is not allowed: give {' or '.join(known)}, each at most once.")


def _check_target(out: Path) -> None:
    """A folder is replaced as a whole, so nothing may stand in it that no export has written."""
    document = out / DOCUMENT
    if not document.is_file():
        return  # `publish` refuses a folder that holds anything
    listed = {*_files_of(document), DOCUMENT}
    strange = sorted(path.name for path in out.iterdir() if path.name not in listed)
    if strange:
        raise StoreError(f"{str(out)!r} holds {strange[0]!r}, which no export wrote: move it away, or name a new folder.")


def _files_of(document: Path) -> set[str]:
    """What an earlier export of a student lists; nothing where something else was exported."""
    data = document.read_bytes()
    said = load_json(data, str(document))
    if said.get("format") == FORMAT.name:
        said = FORMAT.read(data, str(document)).fields
    elif said.get("format") != _FIRST_NAME:
        return set()
    files = said.get("files")
    return set(files) if isinstance(files, dict) else set()


def _trace(classifier: Classifier, input: str, name: str) -> ExportedProgram:
    example = torch.zeros(2, *classifier.spec.shape, dtype=_DTYPES[input])
    module = ExportedClassifier(classifier, "uint8" if input == "uint8" else "float32")
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    except Exception as error:  # the network may be anybody's, and torch.export raises whatever stopped it
        cause = error.__cause__ if isinstance(error, ConfigError) and isinstance(error.__cause__, Exception) else error
        raise ConfigError(
            f"{name} cannot be exported ({named(cause)}): torch.export needs a "
            "network without Python branches on values and for any batch size; serve the bundle itself, or change the network."
        ) from error
    _forget_origin(program)
    program.example_inputs = ((example,), {})  # without one torch leaves an empty entry, which MLflow takes for a pickle and refuses
    return program


def _forget_origin(program: ExportedProgram) -> None:
    """Drop stack traces, which name paths of this machine."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
                node.meta.pop(key, None)


_Run = Callable[[Tensor], Tensor]


def _write_pt2(program: ExportedProgram, text: str) -> tuple[bytes, _Run | None]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={f"{METADATA}.json": text})
    data = buffer.getvalue()
    module = torch.export.load(io.BytesIO(data)).module()
    return data, lambda images: module(images)


def _write_onnx(program: ExportedProgram, text: str) -> tuple[bytes, _Run | None]:
    import onnx

    if sum(value.numel() * value.element_size() for value in program.state_dict.values()) >= _ONNX_LIMIT:
        raise ConfigError("The student has 2 GiB of weights or more, which one ONNX file cannot hold: export it as pt2 only.")
    with guarded("The student cannot be written as ONNX", _WITHOUT_ONNX):  # the network may be anybody's
        written = torch.onnx.export(program, (), input_names=["images"], output_names=["logits"], opset_version=OPSET, verbose=False)
    assert written is not None
    model = written.model_proto
    _strip_graph(model.graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, text
    with guarded("The student's ONNX file is not valid", _WITHOUT_ONNX):
        onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data, _onnx_run(data)


def _strip_graph(graph: Any) -> None:
    """Drop where each node came from, paths of this machine included, and call the free dimension by its name."""
    del graph.value_info[:], graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    for item in (*graph.input, *graph.output):
        item.type.tensor_type.shape.dim[0].dim_param = "batch"


def _onnx_run(data: bytes) -> _Run | None:
    if find_spec("onnxruntime") is None:
        _log.warning("onnxruntime is not installed, so the ONNX file was checked for form only: install it to compare the logits.")
        return None
    import onnxruntime

    with guarded("The student's ONNX file does not run", _WITHOUT_ONNX):  # onnxruntime knows fewer kernels than torch
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        with guarded("The student's ONNX file does not run", _WITHOUT_ONNX):
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run


_WRITERS: dict[str, Callable[[ExportedProgram, str], tuple[bytes, _Run | None]]] = {"pt2": _write_pt2, "onnx": _write_onnx}


@torch.no_grad()
def _compare(run: _Run, classifier: Classifier, input: str, name: str) -> float:
    """Largest difference from the bundle's logits on random images, in batches of several sizes."""
    images = random_images(sum(_CHECKED_BATCHES), classifier.spec.shape).split(list(_CHECKED_BATCHES))
    expected = torch.cat([classifier(batch.float() / 255) for batch in images])
    found = torch.cat([run(batch if input == "uint8" else batch.float() / 255) for batch in images])
    largest, scale = (found - expected).abs().max().item(), expected.abs().max().item()
    if not largest <= TOLERANCE * max(scale, 1.0):  # NaN fails too
        raise ConfigError(
            f"{name} gives logits up to {largest:.2g} away from the bundle's, more than {TOLERANCE:g} of the largest: nothing was written; "
            "leave this format out."
        )
    return largest


def _document(classifier: Classifier, sha256: str, files: Mapping[str, ExportedFile], inputs: Sequence[str]) -> bytes:
    described = [describe(classifier, sha256, input) for input in inputs]
    fields = {
        **described[0],
        "input": {item["input"]["dtype"]: item["input"] for item in described},
        "opset": OPSET,
        "torch": torch.__version__.split("+")[0],
        "files": {name: {"sha256": file.sha256, "bytes": file.bytes} for name, file in files.items()},
    }
    provenance = Provenance(inputs={"bundle": sha256}, code_version=code_version())
    return FORMAT.write(provenance, fields)
