import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError
from distillery.models.bundle import VerifiedBundle, load_classifier, read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.statistics.extract import class_moments
from distillery.statistics.moments import load_moments
from distillery.steps import extract_class_statistics
from distillery.steps.extract_statistics import Inputs, Outputs, run
from distillery.types import Classifier, ImageSpec
from distillery.workbench.given import open_source, refer_to
from distillery_kfp.pipelines.cli import app as cli

SPEC = ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")


def make_teacher(folder: Path, name: str = "wrn_10_1", **arguments: Any) -> str:
    architecture = Architecture(name=name, arguments=arguments)
    network = build_network(architecture, SPEC, 4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.running_mean)
    return save_classifier(folder, Classifier(network, SPEC, ("a", "b", "c", "d")), architecture, Provenance(code_version="1"))


def make_section(teacher_sha256: str, **changes: Any) -> dict[str, Any]:
    return {"seed": 0.0, "code_version": code_version(), "teacher_sha256": teacher_sha256, "kind": "global", **changes}


def ask(section: dict[str, Any], teacher: Path, out: Path) -> dict[str, float]:
    return run(section, Inputs(teacher_uri=str(teacher)), Outputs(statistics=out))


def measure(teacher: Path, out: Path, data: str) -> dict[str, float]:
    """The step of each class, by a reference to labelled images as the one before it leaves it."""
    bundle = VerifiedBundle(teacher)
    found = open_source(data, bundle.info, bundle.sha256, bundle.info.class_names, labels=True)
    refer_to(found, bundle.info, out.with_suffix(".set"), Provenance(code_version="1"))
    section = {"seed": 0.0, "code_version": code_version(), "teacher_sha256": bundle.sha256}
    inputs = extract_class_statistics.Inputs(teacher_uri=str(teacher), set=out.with_suffix(".set"))
    return extract_class_statistics.run(section, inputs, extract_class_statistics.Outputs(class_statistics=out))


def test_the_file_holds_the_teachers_buffers(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    metrics = ask(make_section(sha256), tmp_path / "teacher", tmp_path / "out" / "statistics")
    moments = load_moments(tmp_path / "out" / "statistics", sha256)
    modules = dict(load_classifier(tmp_path / "teacher").named_modules())
    assert len(moments.mean) == metrics["layers"] > 3
    assert sum(len(value) for value in moments.mean.values()) == metrics["channels"]
    assert all(torch.equal(value, modules[path].running_mean) for path, value in moments.mean.items())


def test_equal_work_gives_equal_bytes_and_finished_work_is_taken_as_it_is(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    first = ask(make_section(sha256), tmp_path / "teacher", tmp_path / "one")
    assert ask(make_section(sha256), tmp_path / "teacher", tmp_path / "two") == first
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert ask(make_section(sha256), tmp_path / "teacher", tmp_path / "three") == first
    assert sha256_file(tmp_path / "one") == sha256_file(tmp_path / "two") == sha256_file(tmp_path / "three")


def test_another_teacher_than_planned_is_refused(tmp_path: Path) -> None:
    make_teacher(tmp_path / "teacher")
    with pytest.raises(CheckpointMismatchError):
        ask(make_section("0" * 64), tmp_path / "teacher", tmp_path / "statistics")
    assert not (tmp_path / "statistics").exists()


def test_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        ask(make_section("0" * 64), tmp_path / "nothing", tmp_path / "statistics")


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kinds"):
        ask(make_section("0" * 64, kinds="global"), tmp_path / "nothing", tmp_path / "statistics")


def test_a_teacher_without_batchnorm_has_moments_of_no_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sha256 = make_teacher(tmp_path / "teacher", "lenet5", batch_norm=False)
    assert ask(make_section(sha256), tmp_path / "teacher", tmp_path / "statistics") == {"layers": 0.0, "channels": 0.0}
    assert load_moments(tmp_path / "statistics", sha256).mean == {}
    assert "what works without: " in caplog.text
    assert "fast_dfkd with moments_weight = 0" in caplog.text


def make_data(path: Path, labels: list[int], size: int = 16, seed: int = 0) -> str:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, size, size), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(labels))
    return str(path)


def test_moments_of_each_class_are_measured_on_labelled_images(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    data = make_data(tmp_path / "own.npz", [0, 1, 2, 3, 0, 1, 2, 3, 3])
    metrics = measure(tmp_path / "teacher", tmp_path / "one", data)
    found = load_moments(tmp_path / "one", sha256)
    with np.load(data) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    expected = class_moments(load_classifier(tmp_path / "teacher"), images, labels, sha256)
    assert found.counts is not None
    assert (found.kind, found.counts.tolist(), metrics["images"], metrics["fewest"]) == ("per_class", [2, 2, 2, 3], 9, 2)
    assert metrics["channels"] == sum(value.shape[1] for value in found.mean.values())
    for path, value in expected.mean.items():
        torch.testing.assert_close(found.mean[path], value, rtol=1e-4, atol=1e-5)  # in channels-last order
        torch.testing.assert_close(found.variance[path], expected.variance[path], rtol=1e-4, atol=1e-5)
    measure(tmp_path / "teacher", tmp_path / "two", make_data(tmp_path / "other.npz", [0, 1, 2, 3] * 2, seed=1))
    assert load_moments(tmp_path / "two", sha256).counts.tolist() == [2, 2, 2, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"labels": [0, 1, 2, 3], "size": 8}, "1 x 8 x 8, but the classifier expects 1 x 16 x 16"),
        ({"labels": [0, 1, 2, 4]}, "have a label 4"),
        ({"labels": [0, 1, 3, 3]}, "No images of class c were given"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, data: dict[str, Any], sentence: str) -> None:
    make_teacher(tmp_path / "teacher")
    with pytest.raises(ConfigError, match=sentence):
        measure(tmp_path / "teacher", tmp_path / "statistics", make_data(tmp_path / "own.npz", **data))
    assert not (tmp_path / "statistics").exists()


def test_images_without_labels_have_no_class_to_measure(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    info = read_bundle(tmp_path / "teacher")[0]
    found = open_source(make_data(tmp_path / "own.npz", [0, 1, 2, 3]), info, sha256, info.class_names, labels=False)
    refer_to(found, info, tmp_path / "set", Provenance(code_version="1"))
    section = {"seed": 0.0, "code_version": code_version(), "teacher_sha256": sha256}
    inputs = extract_class_statistics.Inputs(teacher_uri=str(tmp_path / "teacher"), set=tmp_path / "set")
    with pytest.raises(ConfigError, match="were opened without labels: moments of classes need those"):
        extract_class_statistics.run(section, inputs, extract_class_statistics.Outputs(class_statistics=tmp_path / "statistics"))


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    for name in ("DISTILLERY_WORKDIR", "DISTILLERY_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["distillery", "extract-statistics", *map(str, words), "--device", "cpu"])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("pod", ["", "10.0.0.1"], ids=["desk", "notebook in a pod"])
def test_the_command_writes_either_kind(
    pod: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", pod)  # whose folder a person has chosen there
    sha256 = make_teacher(tmp_path / "teacher")
    data = make_data(tmp_path / "own.npz", [0, 1, 2, 3] * 2)
    assert call(monkeypatch, tmp_path / "teacher", "--out", tmp_path / "out" / "own") == 0
    assert call(monkeypatch, tmp_path / "teacher", "--out", tmp_path / "out" / "classes", "--data", data) == 0
    kinds = [load_moments(tmp_path / "out" / name, sha256).kind for name in ("own", "classes")]
    assert kinds == ["global", "per_class"]
    out = capsys.readouterr().out
    assert "images 8" in out
    assert f"sha256 {sha256_file(tmp_path / 'out' / 'classes')}" in out
    assert str(tmp_path) not in (tmp_path / "out" / "classes").read_bytes().decode(errors="replace")


def test_the_file_is_all_that_the_command_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    (tmp_path / "passing").mkdir()
    make_teacher(tmp_path / "teacher")
    words = (tmp_path / "teacher", "--data", make_data(tmp_path / "own.npz", [0, 1, 2, 3] * 2), "--out", tmp_path / "out" / "classes")
    before = set(tmp_path.iterdir())
    assert call(monkeypatch, *words) == 0
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "classes"]
    assert not list((tmp_path / "passing").iterdir())
    assert call(monkeypatch, *words, "--workdir", tmp_path / "kept") == 0
    assert list((tmp_path / "kept").rglob("result.json"))


def test_the_command_s_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_teacher(tmp_path / "teacher")
    (tmp_path / "folder").mkdir()
    for words, said in ((("--out", tmp_path / "folder"), "folder"), (("--out", tmp_path / "out", "--data", "absent.npz"), "absent.npz")):
        assert call(monkeypatch, tmp_path / "teacher", *words) == 1
        err = capsys.readouterr().err
        assert said in err
        assert len([line for line in err.splitlines() if line.startswith("distillery: ")]) == 1
    assert not (tmp_path / "out").exists()
