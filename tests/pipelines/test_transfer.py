"""A student of other classes than its teacher's: trained by layers and labels, scored on labels of its own, registered and audited."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chains import EXPECTS, STUDENT, Chain, make_teacher
from distillery.errors import ConfigError
from distillery.estimate.estimate import estimate
from distillery.evaluation.report import load_report
from distillery.ledger.audit import audit
from distillery.ledger.runs import list_runs
from distillery.models.bundle import load_classifier
from distillery.reporting.card import model_card, open_sources
from distillery.steps import plan
from distillery.storage import open_store

KD = "students/digits-kd"
SHORT = {"epochs": 1, "batch": 8, "steps_per_epoch": 1}
LAYERS = {**SHORT, "objectives": [{"name": "fsp", "projection": True, "reduction": "mean"}]}
LABELS = {**SHORT, "objectives": [{"name": "cross_entropy"}]}
FIVE = {"student.classes": 5, "student.stages": [LAYERS, LABELS]}
ANSWERS = {**SHORT, "objectives": [{"name": "kd"}, {"name": "cross_entropy"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of three classes, and images of five."""
    folder = tmp_path_factory.mktemp("transfer")
    make_teacher(folder / "teacher")
    images = np.random.default_rng(1).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "five.npz", images=images, labels=np.arange(20) % 5)
    return folder


@pytest.fixture(scope="module")
def chain(folder: Path) -> Chain:
    form = {"images_uri": str(folder / "five.npz"), "eval_data_uri": str(folder / "five.npz")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Chain(folder, KD, str(folder / "store"), form=form, more=FIVE).make()


def form_of(folder: Path, overrides: dict[str, Any], **more: str) -> dict[str, Any]:
    places = {"images_uri": str(folder / "five.npz"), "teacher_uri": str(folder / "teacher"), **more}
    network = {"student.architecture": STUDENT["architecture"]}
    return {"run_recipe": KD, **places, "run_overrides": {**EXPECTS, **network, **overrides}}


def test_it_is_scored_on_its_own_labels_and_registered_by_them(chain: Chain) -> None:
    assert load_classifier(chain.student).num_classes == 5
    report = load_report(chain.folder / chain.run / "report.json")
    assert (report.student.accuracy.total, report.compared, report.teacher.accuracy.total) == (20, False, 0)
    assert (chain.registered["metric"], chain.registered["value"]) == ("student/top1", report.student.accuracy.top1)


def test_page_runs_and_card_say_why_nothing_is_compared(chain: Chain) -> None:
    page = (chain.folder / chain.run / "report.html").read_text()
    assert "5 classes are others than the teacher" in page
    assert "the teacher knows other classes" in page
    assert "same answer as the teacher" not in page
    (run,) = list_runs(open_store(chain.store))
    said = run.to_json("")
    assert (said["agreement"], said["teacher_top1"]) == (None, None)
    assert said["student_top1"] == load_report(chain.folder / chain.run / "report.json").student.accuracy.top1
    card = model_card(open_sources(chain.student, report=chain.folder / chain.run / "report.json"))
    assert "nothing compares the answers of the two" in card
    assert "same class as the teacher" not in card


def test_it_is_audited_like_any_other(chain: Chain) -> None:
    assert {link.name: link.state for link in audit(f"{chain.store}/{chain.key}")} == dict.fromkeys(
        ("student", "run", "images", "teacher"), "ok"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"student.stages": [LAYERS, LABELS]}, "label 4"),
        (
            {**FIVE, "student.stages": [{**SHORT, "objectives": [{"name": "kd"}, {"name": "cross_entropy"}]}]},
            "the teacher has 3 classes and the student 5",
        ),
        (FIVE, "so nothing but labelled images can tell what the student is worth: give test images of these classes as --data"),
        ({**FIVE, "registration.metric": "agreement"}, "registration.metric = agreement compares answers"),
    ],
)
def test_what_could_not_be_judged_is_refused_before_it_is_trained(folder: Path, overrides: dict[str, Any], said: str) -> None:
    tested = {"eval_data_uri": str(folder / "five.npz")} if "student.classes" in overrides and overrides != FIVE else {}
    with Chain(folder, KD, str(folder / "store"), run="never").environment(), pytest.raises(ConfigError, match=said):
        plan.run("student_distillation", form_of(folder, overrides, **tested))


def test_the_estimate_knows_its_classes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.estimate.profiling._start", lambda: (1.0, 1000))
    monkeypatch.setattr("distillery.estimate.profiling.STUDENT_SECONDS", 0.1)
    found = estimate("student_distillation", form_of(folder, FIVE, eval_data_uri=str(folder / "five.npz")), "cpu", steps=2)
    assert (found.images, found.student_steps, found.counted.tested) == (20, 2, 20)
    with pytest.raises(ConfigError, match="give test images of these classes"):
        estimate("student_distillation", form_of(folder, FIVE), "cpu", steps=2)
