"""Exports: the same logits as the bundle, in files that need neither Distillery nor a pickle, and nothing half-written."""

import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.models import bundle as bundle_module
from distillery.models import export
from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.models.export import export_student, file_name, random_images
from distillery.provenance import Provenance, sha256_bytes, sha256_file
from distillery.types import Classifier, ImageSpec

ORIGIN = Provenance(inputs={"teacher": "0" * 64}, code_version="1" * 64)
ARCHITECTURES = {
    "resnet8": 3,
    "wrn_16_1": 3,
    "vgg8_bn": 3,
    "mobilenet_v2": 3,
    "lenet5": 1,
    "torchvision:squeezenet1_1": 3,
}
# pt2 runs the same kernels; onnxruntime rounds elsewhere, and is as far from float64 as we are (1.1e-05 on the MobileNetV2 here)
TOLERANCES = {"pt2": 1e-6, "onnx": 5e-5}
QUICK: dict[str, Any] = {"formats": ("pt2",), "inputs": ("float32",)}

PT2_ALONE = """
import sys
class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("distillery", "distillery_kfp"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
def refuse(*_, **__):
    raise AssertionError("unpickled")
load = torch.load
torch.load = lambda file, weights_only=False: load(file, weights_only=True) if weights_only else refuse()
torch._C._pickle_load_obj = refuse
images, extra = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32) % 251 / 255, {"distillery.json": ""}
logits = torch.export.load(sys.argv[1], extra_files=extra).module()(images)
assert "distillery" not in sys.modules
import json
print(json.dumps([logits.tolist(), json.loads(extra["distillery.json"])]))
"""
ONNX_ALONE = """
import sys
sys.modules["torch"] = sys.modules["distillery"] = sys.modules["onnx"] = None
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = (numpy.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32) % 251).astype(numpy.uint8)
(logits,) = session.run(["logits"], {"images": images})
print(json.dumps([logits.tolist(), json.loads(session.get_modelmeta().custom_metadata_map["distillery"])]))
"""


def write_bundle(folder: Path, name: str = "lenet5", channels: int = 1) -> Classifier:
    """A bundle whose BatchNorm has seen something, with normalisation that matters."""
    spec = ImageSpec(channels=channels, height=32, width=32, mean=(0.49, 0.48, 0.45)[:channels], std=(0.2, 0.25, 0.3)[:channels])
    torch.manual_seed(0)
    network = build_network(Architecture(name=name), spec, 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None  # running means over all batches: activations keep their spread down to the logits
    classifier = Classifier(network, spec, tuple(f"class {index}" for index in range(10)))
    for batch in random_images(128, spec.shape).split(32):
        classifier.train()(batch.float() / 255)
    save_classifier(folder, classifier, Architecture(name=name), ORIGIN)
    return classifier.freeze()


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda images: module(images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_many_images_give_the_logits_of_the_bundle(name: str, tmp_path: Path) -> None:
    inputs = ("float32", "uint8") if name == "resnet8" else ("uint8",)  # pixels become floats in front of every network alike
    write_bundle(tmp_path / "b", name, ARCHITECTURES[name])
    files = export_student(tmp_path / "b", tmp_path / "out", inputs=inputs)
    classifier = load_classifier(tmp_path / "b").freeze()
    count = 100  # an image more is another try at the same formulas
    batches = random_images(1000, classifier.spec.shape)[:count].split([1, 3, 32, 32, 32])
    expected = torch.cat([classifier(batch.float() / 255) for batch in batches])
    assert expected.std(0).max() > 1e-2, "images that the network cannot tell apart prove nothing"
    for format, tolerance in TOLERANCES.items():
        for input in inputs:
            run = runner(tmp_path / "out" / file_name(format, input))
            found = torch.cat([run(batch if input == "uint8" else batch.float() / 255) for batch in batches])
            assert found.dtype == torch.float32
            assert found.shape == (count, 10)
            largest = (found - expected).abs().max().item()
            logging.getLogger(__name__).info("%s %s %s: %.2e of %.1f", name, format, input, largest, expected.abs().max())
            assert largest <= tolerance * max(1.0, expected.abs().max().item())
            written = files[file_name(format, input)].difference
            assert written is not None
            assert written <= tolerance * max(1.0, expected.abs().max().item())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `b` of a ResNet-8 and its export `out`."""
    folder = tmp_path_factory.mktemp("exported")
    write_bundle(folder / "b", "resnet8", 3)
    export_student(folder / "b", folder / "out")
    return folder


@pytest.mark.parametrize(("code", "name", "input"), [(PT2_ALONE, "student.pt2", "float32"), (ONNX_ALONE, "student.uint8.onnx", "uint8")])
def test_a_fresh_process_without_distillery(code: str, name: str, input: str, exported: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-W", "error", "-c", code, str(exported / "out" / name)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logits, said = json.loads(done.stdout)
    images = (torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32) % 251).float() / 255
    torch.testing.assert_close(torch.tensor(logits), load_classifier(exported / "b").freeze()(images), rtol=1e-5, atol=1e-5)
    assert said["class_names"][3] == "class 3"
    assert said["bundle_sha256"] == sha256_file(exported / "b" / "bundle.json")
    assert said["input"]["dtype"] == input
    assert said["input"]["shape"] == ["batch", 3, 32, 32]


def test_equal_bundles_give_equal_bytes_in_another_process(exported: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from distillery.models.export import export_student as e; e(*map(Path, sys.argv[1:]))"
    words = [sys.executable, "-c", code, str(exported / "b"), str(tmp_path / "other" / "place")]
    subprocess.run(words, check=True, env={"PYTHONHASHSEED": "7"}, cwd=tmp_path)
    first, second = exported / "out", tmp_path / "other" / "place"
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    assert [path.name for path in first.glob("student*") if path.read_bytes() != (second / path.name).read_bytes()] == []
    documents = [json.loads((folder / "export.json").read_bytes()) for folder in (first, second)]
    assert {document["provenance"].pop("code_version") for document in documents}  # sources may be edited while tests run
    assert documents[0] == documents[1]


def test_files_hold_no_pickle_and_no_path(exported: Path) -> None:
    home = str(Path(export.__file__).parents[3]).encode()
    for path in (exported / "out").iterdir():
        assert home not in path.read_bytes(), path.name
        assert b"site-packages" not in path.read_bytes(), path.name
    with zipfile.ZipFile(exported / "out" / "student.pt2") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    packed = [name for name, data in members.items() if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")]
    (example,) = packed  # one plain tensor, for whose sake MLflow takes the file with unpickling forbidden
    assert example.endswith("sample_inputs/model.pt")
    ((image,), none) = torch.load(BytesIO(members[example]), weights_only=True)
    assert (tuple(image.shape), image.any(), none) == ((2, 3, 32, 32), False, {})
    assert [name for name, data in members.items() if not data] == []
    configs = b"".join(data for name, data in members.items() if name.endswith("_config.json"))
    assert b'"use_pickle": false' in configs
    assert b'"use_pickle": true' not in configs


def test_document_lists_every_file(exported: Path) -> None:
    document = json.loads((exported / "out" / "export.json").read_bytes())
    assert (document["format"], document["version"]) == ("distillery-student-export", 2)
    assert document["provenance"]["inputs"] == {"bundle": sha256_file(exported / "b" / "bundle.json")}
    assert set(document["files"]) == {path.name for path in (exported / "out").iterdir()} - {"export.json"}
    for name, entry in document["files"].items():
        assert entry == {"sha256": sha256_file(exported / "out" / name), "bytes": (exported / "out" / name).stat().st_size}
    assert document["input"]["uint8"]["range"] == [0, 255]
    assert document["class_names"][9] == "class 9"


def test_onnx_is_of_the_promised_opset_and_dynamic_in_the_batch_only(exported: Path) -> None:
    model = onnx.load(exported / "out" / "student.uint8.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", export.OPSET)]
    assert {node.domain for node in model.graph.node} == {""}
    assert [node.name for node in model.graph.node if node.metadata_props or node.doc_string] == []
    (given,) = model.graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]


@pytest.mark.parametrize("name", ["student.pt2", "student.onnx"])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32)])
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...], exported: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)shape|dimension|guard|== 32"):
        runner(exported / "out" / name)(torch.rand(shape))


def test_texts_are_told_the_files_and_listed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    files = export_student(tmp_path / "b", tmp_path / "out", **QUICK, texts=lambda files: {"note.md": f"{files['student.pt2'].sha256}\n"})
    assert (tmp_path / "out" / "note.md").read_text() == f"{sha256_file(tmp_path / 'out' / 'student.pt2')}\n"
    assert files["note.md"].sha256 == sha256_file(tmp_path / "out" / "note.md")
    assert list(files) == ["student.pt2", "note.md", "export.json"]


def test_an_earlier_export_is_replaced_whole_and_nothing_else(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    out = tmp_path / "out"
    export_student(tmp_path / "b", out, **QUICK)
    export_student(tmp_path / "b", out, ("pt2",), ("uint8",))
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "student.uint8.pt2"]
    (out / "Dockerfile").write_text("FROM scratch")
    with pytest.raises(StoreError, match=r"holds 'Dockerfile', which no export wrote"):
        export_student(tmp_path / "b", out, **QUICK)
    assert (out / "Dockerfile").exists()
    with pytest.raises(StoreError, match=r"holds 'bundle.json' and no export"):
        export_student(tmp_path / "b", tmp_path / "b", **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "out"], "no temporary folder is left"


def test_a_target_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write the export"):
        export_student(tmp_path / "b", tmp_path / "file" / "out", **QUICK)


@pytest.mark.parametrize(
    ("formats", "inputs", "said"),
    [(("torchscript",), ("float32",), "give pt2 or onnx"), ((), ("uint8",), "nothing"), (("pt2",), ("bf16",), "float32 or uint8")],
)
def test_unknown_choices(formats: tuple[str, ...], inputs: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export_student(tmp_path / "b", tmp_path / "out", formats, inputs)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no bundle"):
        export_student(tmp_path / "b", tmp_path / "out")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1024, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return -logits if logits.sum() > 0 else logits


def test_a_network_that_cannot_be_followed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ImageSpec(channels=1, height=32, width=32, mean=(0.5,), std=(0.5,))
    monkeypatch.setattr(bundle_module, "build_network", lambda *_: Branching())
    classifier = Classifier(Branching(), spec, tuple("abcdefghij"))
    save_classifier(tmp_path / "b", classifier, Architecture(name="mine:branching"), ORIGIN)
    with pytest.raises(ConfigError, match=r"^mine:branching cannot be exported .*serve the bundle itself") as error:
        export_student(tmp_path / "b", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [lambda logits: logits + 0.01, lambda logits: logits * float("nan")])
def test_a_file_with_other_logits_is_never_written(wrong: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: Any) -> None:
    write_bundle(tmp_path / "b")
    right = export._WRITERS["pt2"]

    def write(program: Any, text: str) -> Any:
        data, run = right(program, text)
        assert run is not None
        return data, lambda images: wrong(run(images))

    monkeypatch.setitem(export._WRITERS, "pt2", write)
    with pytest.raises(ConfigError, match=r"student.pt2 gives logits up to .* away from the bundle's"):
        export_student(tmp_path / "b", tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_without_onnxruntime_the_file_is_written_and_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_bundle(tmp_path / "b")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    files = export_student(tmp_path / "b", tmp_path / "out", ("onnx",), ("uint8",))
    assert files["student.uint8.onnx"].difference is None
    assert "onnxruntime is not installed" in caplog.text
    onnx.checker.check_model(onnx.load(BytesIO((tmp_path / "out" / "student.uint8.onnx").read_bytes())), full_check=True)


def test_a_flipped_byte_in_the_weights_stops_it(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    path = tmp_path / "b" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert sha256_bytes(bytes(data)) == sha256_file(path)
    with pytest.raises(StoreError, match="is damaged"):
        export_student(tmp_path / "b", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Double(nn.Module):
    """Computes in float64, which onnxruntime has no convolution for."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, num_classes, 8).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images.double()).flatten(1)


def test_logits_leave_as_float32_and_what_no_runtime_has_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
    monkeypatch.setattr(bundle_module, "build_network", lambda *_: _Double())
    save_classifier(tmp_path / "b", Classifier(_Double(), spec, ("a", "b")), Architecture(name="mine:double"), ORIGIN)
    export_student(tmp_path / "b", tmp_path / "pt2", **QUICK)
    assert torch.export.load(tmp_path / "pt2/student.pt2").module()(torch.rand(3, 1, 8, 8)).dtype == torch.float32
    words = r"^The student's ONNX file does not run \(NotImplemented: .*Conv.*\): leave this format out, .*[.]$"
    with pytest.raises(ConfigError, match=words):
        export_student(tmp_path / "b", tmp_path / "onnx", ("onnx",), ("float32",))
    assert not (tmp_path / "onnx").exists()
