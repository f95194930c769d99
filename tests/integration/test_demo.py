"""The demo's whole way, made small: what it prints and what it leaves."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from distillery.data.real import load_labelled
from distillery_kfp.pipelines.demo.digits import TEST_IMAGES, TeacherTraining, load_split
from distillery_kfp.pipelines.demo.run import Size, show
from short_recipes import SHORT


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_demo_shows_four_models_and_keeps_no_training_image(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    console = Console(record=True, width=120)
    show(console, folder, Size(TeacherTraining(epochs=1, batch=128), SHORT))
    said = console.export_text()
    for name in ("teacher", "FastDFKD student", "LS-GDFD student", "student on noise"):
        assert name in said
    assert said.count(f"/{TEST_IMAGES} ") == 4
    assert "distillery run" in said
    arrays = sorted(path.name for path in folder.rglob("*.np[yz]"))
    assert arrays == ["test.npz"]
    assert len(load_labelled(str(folder / "test.npz"))) == TEST_IMAGES
    assert len(list((folder / "store" / "runs").glob("*/evaluation.json"))) == 3
    assert (folder / "work" / "mlflow.db").is_file()
    named = [folder.parent / line.split()[0] for line in said.splitlines() if "report.html" in line][-2:]
    assert len({path.resolve() for path in named if path.is_file()}) == 2
    for report in (folder / "store" / "runs").glob("*/evaluation.json"):
        assert json.loads(report.read_text())["source"] == "test set"


def test_the_split_is_fixed_stratified_and_disjoint() -> None:
    digits = load_split()
    assert (len(digits.train), len(digits.test)) == (1347, 450)
    counts = digits.test.labels.bincount()
    assert int(counts.min()) >= 43
    assert int(counts.max()) <= 46
    assert digits.test.digest() == load_split().test.digest()
    assert digits.train.images.shape[1:] == (1, 16, 16)
    assert int(digits.train.images.max()) == 255
