"""The distillation steps cannot see the data: they run with scikit-learn's loader patched to raise, and nowhere else are there images."""

import sys
from pathlib import Path
from typing import NoReturn

import pytest
import sklearn.datasets
import torch

from distillery import distill
from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.types import Classifier, ImageSpec
from short_recipes import SHORT


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A teacher bundle as a stranger would bring it: random weights, nothing beside them."""
    architecture = Architecture(name="wrn_16_1")
    spec = ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.3,))
    names = tuple(str(digit) for digit in range(10))
    folder = tmp_path / "teacher"
    provenance = Provenance(code_version=code_version())
    save_classifier(folder, Classifier(build_network(architecture, spec, 10), spec, names), architecture, provenance)
    return folder


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loader of scikit-learn answers, and the module of the demo that calls it cannot be imported."""

    def refuse(*arguments: object, **named: object) -> NoReturn:
        raise AssertionError("a distillation step asked scikit-learn for data")

    for name in [name for name in vars(sklearn.datasets) if name.startswith(("load_", "fetch_"))]:
        monkeypatch.setattr(sklearn.datasets, name, refuse)
    monkeypatch.setattr(sklearn.datasets._base, "load_csv_data", refuse)
    monkeypatch.setattr(sklearn.datasets._base, "load_gzip_compressed_csv_data", refuse)
    monkeypatch.setitem(sys.modules, "distillery_kfp.pipelines.demo.digits", None)


@pytest.mark.integration
@pytest.mark.parametrize("recipe", SHORT)
def test_distillation_needs_no_data(recipe: str, teacher: Path, tmp_path: Path, blind: None) -> None:
    with pytest.raises(AssertionError, match="asked scikit-learn"):
        sklearn.datasets.load_digits()
    run = distill(teacher, recipe, tmp_path / "run", overrides=SHORT[recipe])
    student = load_classifier(run.student)
    assert torch.isfinite(student(torch.rand(2, 1, 16, 16))).all()
    assert run.metrics["images"] > 0
