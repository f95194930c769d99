from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError
from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, sha256_file
from distillery.statistics.moments import load_moments
from distillery.steps.extract_statistics import run
from distillery.types import Classifier, ImageSpec

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
    return {"seed": 0.0, "code_version": "1", "teacher_sha256": teacher_sha256, "kind": "global", **changes}


def test_the_file_holds_the_teachers_buffers(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    metrics = run(make_section(sha256), str(tmp_path / "teacher"), tmp_path / "out" / "statistics")
    moments = load_moments(tmp_path / "out" / "statistics", sha256)
    modules = dict(load_classifier(tmp_path / "teacher").named_modules())
    assert len(moments.mean) == metrics["layers"] > 3
    assert sum(len(value) for value in moments.mean.values()) == metrics["channels"]
    assert all(torch.equal(value, modules[path].running_mean) for path, value in moments.mean.items())


def test_equal_work_gives_equal_bytes_and_finished_work_is_taken_as_it_is(tmp_path: Path) -> None:
    sha256 = make_teacher(tmp_path / "teacher")
    first = run(make_section(sha256), str(tmp_path / "teacher"), tmp_path / "one")
    assert run(make_section(sha256), str(tmp_path / "teacher"), tmp_path / "two") == first
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert run(make_section(sha256), str(tmp_path / "teacher"), tmp_path / "three") == first
    assert sha256_file(tmp_path / "one") == sha256_file(tmp_path / "two") == sha256_file(tmp_path / "three")


def test_another_teacher_than_planned_is_refused(tmp_path: Path) -> None:
    make_teacher(tmp_path / "teacher")
    with pytest.raises(CheckpointMismatchError):
        run(make_section("0" * 64), str(tmp_path / "teacher"), tmp_path / "statistics")
    assert not (tmp_path / "statistics").exists()


def test_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        run(make_section("0" * 64), str(tmp_path / "nothing"), tmp_path / "statistics")


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kinds"):
        run(make_section("0" * 64, kinds="global"), str(tmp_path / "nothing"), tmp_path / "statistics")


def test_a_teacher_without_batchnorm_has_moments_of_no_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sha256 = make_teacher(tmp_path / "teacher", "lenet5", batch_norm=False)
    assert run(make_section(sha256), str(tmp_path / "teacher"), tmp_path / "statistics") == {"layers": 0.0, "channels": 0.0}
    assert load_moments(tmp_path / "statistics", sha256).mean == {}
    assert "what works without: fast_dfkd with moments_weight = 0" in caplog.text
