import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery import Distilled, distill
from distillery.data.reference import open_reference
from distillery.documents import seal
from distillery.evaluation.report import load_report
from distillery.ledger.page import PageCollector
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.recipes.sections import EvaluationSection
from distillery.reporting.page import PageData
from distillery.reporting.real_images import RealImages
from distillery.storage import open_store
from distillery.types import Classifier, ImageSpec
from distillery.workbench import keys
from short_recipes import SHORT


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """A finished offline run without a test set, so that it holds a generator, a set and a student."""
    folder = tmp_path_factory.mktemp("collector")
    architecture, spec = Architecture(name="wrn_16_1"), ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.3,))
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        teacher = Classifier(build_network(architecture, spec, 10), spec, tuple("0123456789"))
        save_classifier(folder / "teacher", teacher, architecture, Provenance(code_version=code_version()))
        patch.setenv("KFP_RUN_ID", "run-1")
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        overrides = {**SHORT["ls_gdfd/digits"], "student.keep_epochs": 1}
        return distill(folder / "teacher", "ls_gdfd/digits", folder / "run", overrides=overrides)


@pytest.fixture
def run(done: Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distilled:
    """A copy of it, to be broken; the set's reference goes on naming the original's."""
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    shutil.copytree(done.folder, tmp_path / "run")
    return replace(done, folder=tmp_path / "run")


def gather(run: Distilled) -> PageData:
    section = EvaluationSection.parse(run.steps["evaluate"].section)
    store = open_store(str(run.folder / "store"))
    report = load_report(run.report)
    return PageCollector(store, section, report, run.report, str(run.teacher), run.student, run.set).collect()


def test_everything_of_a_run_is_found(run: Distilled) -> None:
    data = gather(run)
    assert data.missing == {}
    assert set(data.histories) == {"train_generator", "materialize", "train_student"}
    assert data.histories["train_generator"].names("gradient/")
    assert data.epochs == 2
    assert [score.name for score in data.report.snapshots] == ["epochs/000001", "epochs/000002"]
    assert [link.name for link in data.lineage] == ["Teacher", "Statistics", "Generator", "Synthetic set", "Student", "Report"]
    assert all(len(link.sha256) == 64 for link in data.lineage)
    assert sum(data.set.counts) == data.set.images > 0
    assert sum(sample.in_set for sample in data.samples) == data.set.images
    assert data.health is not None
    assert data.run.recipe["synthesis"]["method"] == "ls_gdfd"
    assert (data.method, data.recipe) == ("LS-GDFD", "ls_gdfd/digits")


def test_a_page_is_written_and_kept_by_the_tracker(done: Distilled) -> None:
    page = done.page.read_text()
    assert page.startswith("<!DOCTYPE html>")
    kept = list((done.folder / "work" / "tracking").glob("evaluate-*/artifacts/report.html"))
    assert [path.read_text() for path in kept] == [page]


Break = Any
BREAKS: dict[str, tuple[Break, set[str]]] = {
    "no run record": (lambda run, patch: patch.delenv("KFP_RUN_ID"), {"command"}),
    "a damaged run record": (lambda run, patch: (run.folder / "store/runs/run-1/run.json").write_text("{"), {"command"}),
    "no set": (lambda run, patch: shutil.rmtree(run.set), {"samples", "health"}),
    "no health": (lambda run, patch: (run.set / "health.json").unlink(), {"health"}),
    "no checkpoints": (lambda run, patch: shutil.rmtree(run.folder / "store/checkpoints"), {"cost"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_not_there_costs_only_itself(name: str, run: Distilled, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, parts = BREAKS[name]
    plant(run, monkeypatch)
    data = gather(run)
    assert set(data.missing) == parts
    assert all(reason.endswith((".", ";")) for reason in data.missing.values())
    assert data.lineage


def test_the_student_of_another_run_brings_its_own_history(run: Distilled) -> None:
    document = json.loads((run.student / "bundle.json").read_bytes())
    document["provenance"]["config"]["seed"] = 99
    (run.student / "bundle.json").write_bytes(seal(document))
    data = gather(run)
    assert "train_student" not in data.histories
    assert data.epochs == 0


@pytest.mark.parametrize(("made_by", "format"), [("distill_online", 0), ("train_student", 0), ("train_student", -1), ("", 0)])
def test_a_students_step_is_the_one_whose_work_is_in_the_store(made_by: str, format: int, run: Distilled, tmp_path: Path) -> None:
    made = Provenance(config={"seed": 1}, code_version="c", step_version="v")
    store = open_store(str(tmp_path / "other"))
    if made_by:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keys, "STATE_FORMAT", keys.STATE_FORMAT + format)
            place = f"checkpoints/{made_by}/{keys.key_of(made_by, made)}"
        store.write(f"{place}/history.json", b"{}")
    section = EvaluationSection.parse(run.steps["evaluate"].section)
    collector = PageCollector(store, section, load_report(run.report), run.report, str(run.teacher), run.student, run.set)
    step, checkpoints = collector._work("student", made)
    assert step == (made_by or "train_student")
    assert bool(checkpoints.store.list("")) == bool(made_by)


def test_a_set_that_the_pool_began_with_is_looked_into_as_long_as_it_is_there(done: Distilled, tmp_path: Path) -> None:
    began = tmp_path / "began"
    shutil.copytree(open_reference(done.set).store.uri, began)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFP_RUN_ID", "run-2")
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        run = distill(done.teacher, "fast_dfkd/digits", tmp_path / "run", start=began, overrides=SHORT["fast_dfkd/digits"])
        patch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
        assert gather_online(run).none
        shutil.rmtree(began)
        assert gather_online(run).unknown == ("start",)


def gather_online(run: Distilled) -> RealImages:
    real = gather(run).real
    assert real is not None
    return real
