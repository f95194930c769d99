"""A student begins with the weights of another or of a teacher: a first stage by itself, several nets from it, a teacher trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chains import Chain, changed, make_teacher
from distillery.data.manifest import SetHeader
from distillery.data.reference import write_reference
from distillery.data.store import SetWriter
from distillery.engine.fit import StudentTrainer
from distillery.errors import CheckpointMismatchError, ConfigError, StoreError
from distillery.evaluation.predict import predict
from distillery.ledger.audit import audit
from distillery.ledger.compare import differences
from distillery.ledger.runs import list_runs
from distillery.models.bundle import VerifiedBundle, load_classifier, read_origin
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.reporting.card import model_card, open_sources
from distillery.steps import plan, train_student
from distillery.storage import FolderStore, open_store
from sets import publish_set

KD = "students/digits-kd"
LAYERS = {"objectives": [{"name": "fsp", "projection": True, "reduction": "mean"}], "epochs": 1, "batch": 8, "steps_per_epoch": 2}
ANSWERS = {"objectives": [{"name": "kd"}], "epochs": 1, "batch": 8, "steps_per_epoch": 2}
LABELS = {**ANSWERS, "objectives": [{"name": "cross_entropy"}]}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A first stage by itself, on a set of its teacher, and real images beside it."""
    folder = tmp_path_factory.mktemp("starts")
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "real.npz", images=images, labels=np.arange(30) % 3)
    teacher, made = VerifiedBundle(make_teacher(folder / "teacher")), Provenance(code_version=code_version())
    header = SetHeader(shape=(1, 8, 8), num_classes=3, teacher_sha256=teacher.sha256, provenance=made)
    writer = SetWriter(FolderStore(folder / "set"), header)
    writer.append(torch.from_numpy(images), None, predict(teacher.classifier, torch.from_numpy(images)))
    write_reference(folder / "reference", publish_set(writer))
    return on(Chain(folder, KD, str(folder / "store")), "run-1", [LAYERS])


def on(first: Chain, run: str, stages: list[dict[str, Any]], start: Path | None = None, given: str = "set", **more: Any) -> Chain:
    form = {"images_uri": str(first.folder / given)} | ({"student_start_uri": str(start)} if start else {})
    return replace(first, run=run, form=form, more={"student.stages": stages, **more}).make()


@pytest.fixture(scope="module")
def second(first: Chain) -> Chain:
    return on(first, "run-2", [ANSWERS], first.student)


def links_of(chain: Chain) -> dict[str, Any]:
    return {link.name: link for link in audit(f"{chain.store}/{chain.key}")}


def test_it_begins_with_what_was_given_and_names_it_by_hash(first: Chain, second: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = sha256_file(first.student / "bundle.json")
    assert second.sections["student"]["student_start_sha256"] == sha256
    assert str(first.student) not in str(second.sections), "the place stays out of the key"
    made = read_origin(second.student)
    assert made.inputs["student_start"] == sha256
    assert "student_start" not in read_origin(first.student).inputs
    begun: list[dict[str, torch.Tensor]] = []
    enter = StudentTrainer.__init__

    def spy(self: StudentTrainer, stages: Any, teacher: Any, student: Any, *more: Any) -> None:
        begun.append({name: value.clone() for name, value in student.state_dict().items()})
        enter(self, stages, teacher, student, *more)

    monkeypatch.setattr(StudentTrainer, "__init__", spy)
    nets = [train(first, seed) for seed in (1, 2)]
    before = load_classifier(first.student).state_dict()
    for state in begun:
        assert all(torch.equal(state[name], value) for name, value in before.items())
    one, two = (load_classifier(net).state_dict() for net in nets)
    assert not all(map(torch.equal, one.values(), two.values())), "nets of one first stage differ by their seed"


def train(first: Chain, seed: int) -> Path:
    """A net of the first stage, by the step alone."""
    out = first.folder / f"net-{seed}"
    inputs = train_student.Inputs(teacher_uri=str(first.teacher), set=first.folder / "reference", student_start_uri=str(first.student))
    with replace(first, run=f"net-{seed}").environment():
        sections = planned(first, [ANSWERS], seed=seed, start=first.student)
        train_student.run(sections["student"], inputs, train_student.Outputs(student=out))
    return out


def planned(first: Chain, stages: list[dict[str, Any]], seed: int = 0, start: Path | None = None, **more: Any) -> dict[str, Any]:
    expects = {f"expects.{name}": value for name, value in {"height": 8, "width": 8, "classes": 3}.items()}
    network = {"student.architecture": {"name": "resnet8", "arguments": {"base_width": 8}}}
    overrides = {**expects, **network, "student.stages": stages, **more}
    form = {"images_uri": str(first.folder / "set"), "student_start_uri": str(start or "")}
    values = {"run_recipe": KD, "teacher_uri": str(first.teacher), "run_seed": seed, "run_overrides": overrides}
    return plan.run("student_distillation", {**values, **form})


def test_other_weights_are_other_work_and_equal_ones_the_same(first: Chain, second: Chain) -> None:
    again = on(first, "run-3", [ANSWERS], first.student)
    assert sha256_file(again.student / "bundle.json") == sha256_file(second.student / "bundle.json")
    anew = on(first, "run-4", [ANSWERS])
    assert sha256_file(anew.student / "bundle.json") != sha256_file(second.student / "bundle.json")


def test_the_audit_looks_at_the_weights(first: Chain, second: Chain) -> None:
    link = links_of(second)["weights to begin with"]
    assert (link.state, link.where, link.sha256) == ("ok", str(first.student), sha256_file(first.student / "bundle.json"))
    assert "made from set, teacher" in link.what
    assert "weights to begin with" not in links_of(first)
    weights = first.student / "weights.safetensors"
    with changed(weights, weights.read_bytes()[:-1] + b"\x01"), pytest.raises(StoreError, match="broken at the weights to begin with"):
        links_of(second)


def test_page_compare_and_card_name_them(first: Chain, second: Chain) -> None:
    page = (second.folder / second.run / "report.html").read_text()
    assert "Weights to begin with" in page
    assert "was shown no real image" in page, "they saw the same set"
    runs = {run.id: run for run in list_runs(open_store(first.store))}
    assert differences(runs["run-1"], runs["run-2"])["run.student_start"] == ("", str(first.student))
    card = model_card(open_sources(second.student))
    assert "was shown no real image" not in card, "a card alone cannot know what they saw"


def test_a_student_whose_weights_saw_real_images_is_not_called_data_free(first: Chain) -> None:
    seen = on(first, "run-5", [LABELS], given="real.npz")
    chain = on(first, "run-6", [ANSWERS], seen.student)
    page = (chain.folder / chain.run / "report.html").read_text()
    assert "was shown no real image" not in page
    assert "trained on real images with their labels" in page


def test_a_teacher_is_trained_on(first: Chain) -> None:
    same = {"student.architecture": {"name": "wrn_10_1", "arguments": {}}}
    chain = on(first, "run-7", [LABELS], first.teacher, given="real.npz", **same)
    assert read_origin(chain.student).inputs["student_start"] == sha256_file(first.teacher / "bundle.json")


def test_a_live_game_may_begin_with_them_too(first: Chain) -> None:
    chain = Chain(first.folder, "fast_dfkd/digits", first.store, run="run-8", form={"student_start_uri": str(first.student)}).make()
    assert read_origin(chain.student).inputs["student_start"] == sha256_file(first.student / "bundle.json")
    assert links_of(chain)["weights to begin with"].state == "ok"


def test_what_does_not_fit_is_refused_by_the_plan(first: Chain, caplog: pytest.LogCaptureFixture) -> None:
    with replace(first, run="run-x").environment():
        with pytest.raises(ConfigError, match="are of wrn_10_1, and the student is resnet8"):
            planned(first, [ANSWERS], start=first.teacher)
        with pytest.raises(ConfigError, match="--student-start is missing: the recipe goes on from the weights"):
            planned(first, [ANSWERS], **{"expects.student_start": True})
        planned(first, [ANSWERS], start=first.student, **{"expects.student_start": True})
        assert not [record for record in caplog.records if "knows no class" in record.message]
        with pytest.raises(ConfigError, match="data.holdout = 0.1 has no effect on the set .* leave it out"):
            planned(first, [ANSWERS], **{"data.holdout": 0.1})
        planned(first, [LAYERS])
        assert [record for record in caplog.records if "(fsp), so in the end it knows no class: begin another" in record.message]


def test_weights_that_changed_since_the_plan_stop_the_step(first: Chain, second: Chain) -> None:
    other = on(first, "run-9", [LAYERS, ANSWERS])
    inputs = train_student.Inputs(teacher_uri=str(first.teacher), set=first.folder / "reference", student_start_uri=str(other.student))
    with second.environment(), pytest.raises(CheckpointMismatchError, match="when the run was planned: plan it again"):
        train_student.run(second.sections["student"], inputs, train_student.Outputs(student=first.folder / "never"))
    assert not (first.folder / "never").exists()
