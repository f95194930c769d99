"""One student on a set, on a live synthesizer, on real data: who feeds it, what enters its key, and where it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.data.given import write_images_reference
from distillery.data.manifest import SetHeader
from distillery.data.reference import write_reference
from distillery.data.store import SetWriter
from distillery.engine.feeds import FreshFeed, LabelledFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.evaluation.report import load_report
from distillery.methods.catalog import find_method
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.provenance import Provenance, code_version
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.steps import evaluate, train_student
from distillery.steps.evaluate import open_model
from distillery.storage import FolderStore
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.workbench.assembly import PlannedMethod
from distillery.workbench.given import open_source
from fakes import CLASSES, TINY, FakeSynthesizer, quadrants, tiny_teacher
from sets import publish_set
from toy_objectives import register

PROVENANCE = Provenance(code_version="1")
CONFIG = {"generator": {"name": "conditional", "condition": "one_hot", "latent": 8, "width": 4}}
STAGE = {"epochs": 3, "batch": 8, "objectives": [{"name": "kd", "temperature": 4, "hard": 1.0}], "optimizer": {"rate": 0.02}}


class Desk:
    """A teacher and one of each source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        classifier = tiny_teacher(steps=25)
        self.teacher = folder / "teacher"
        self.sha256 = save_classifier(self.teacher, classifier, TINY, PROVENANCE)
        self.images, self.labels = quadrants(40, torch.Generator().manual_seed(0))
        pixels = (self.images * 255).round().to(torch.uint8)
        header = SetHeader(shape=(1, 8, 8), num_classes=4, teacher_sha256=self.sha256, provenance=PROVENANCE)
        writer = SetWriter(FolderStore(folder / "published"), header)
        with torch.no_grad():
            logits = classifier(self.images)
        writer.append(pixels, None, logits)
        writer.append(pixels[:10], None, logits[:10], "holdout")
        self.set = folder / "set"
        write_reference(self.set, publish_set(writer))
        self.data = folder / "real.npz"
        np.savez(self.data, images=pixels.numpy(), labels=self.labels.numpy())
        self.real = self.refer()
        self.statistics = folder / "moments.safetensors"
        save_moments(self.statistics, global_moments(load_classifier(self.teacher), self.sha256), PROVENANCE)
        self.synthesizer = folder / "synthesizer"
        config = find_method("ls_gdfd").load()[1].parse(CONFIG).to_json()
        state = FakeSynthesizer(classifier, 3).state_dict()
        save_synthesizer(self.synthesizer, SynthesizerState("ls_gdfd", config, self.sha256, state), PROVENANCE)
        self.sources: dict[str, dict[str, Any]] = {
            "set": {"set": self.set},
            "live": {"synthesizer": self.synthesizer, "statistics": self.statistics},
            "real": {"set": self.real},
        }

    def refer(self) -> Path:
        """What the step before leaves of the real images as they are now."""
        folder, info = self.folder / "given", read_bundle(self.teacher)[0]
        found = open_source(str(self.data), info, self.sha256, info.class_names, labels=True)
        write_images_reference(folder, found.facts(info), found.uri, PROVENANCE)
        return folder

    def section(self, steps_per_epoch: int = 2) -> dict[str, Any]:
        stage = {**STAGE, "steps_per_epoch": steps_per_epoch}
        common = {"seed": 1, "code_version": code_version(), "teacher_sha256": self.sha256, "precision": "float32"}
        return {**common, "student": {"architecture": TINY.to_json(), "stages": [stage]}}

    def run(self, source: str, out: str = "student", steps_per_epoch: int = 2, **more: Any) -> dict[str, float]:
        chosen = {**self.sources[source], **more} if source else more
        inputs = train_student.Inputs(teacher_uri=str(self.teacher), **chosen)
        return train_student.run(self.section(steps_per_epoch), inputs, train_student.Outputs(student=self.folder / out))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
    monkeypatch.setattr(
        PlannedMethod,
        "build",
        lambda plan, teacher, runtime, seed, turns=1, ood=None, share=None: FakeSynthesizer(teacher.classifier, seed),
    )
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("source", "feed", "inputs"),
    [
        ("set", PoolFeed, {"teacher", "set"}),
        ("live", FreshFeed, {"teacher", "statistics", "synthesizer"}),
        ("real", LabelledFeed, {"teacher", "data"}),
    ],
)
def test_each_source_feeds_the_student_and_enters_its_key(
    source: str, feed: type, inputs: set[str], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[object] = []
    train: Callable[..., dict[str, float]] = StudentTrainer.train

    def spy(self: StudentTrainer, steps: int, feed: Any) -> dict[str, float]:
        fed.append(feed)
        return train(self, steps, feed)

    monkeypatch.setattr(StudentTrainer, "train", spy)
    numbers = desk.run(source)
    assert len(fed) == numbers["epochs"] == 3
    assert all(isinstance(one, feed) for one in fed)
    assert ("best_agreement" in numbers) == ("holdout/agreement" in numbers) == (source == "set"), "only a set holds images out"
    made = json.loads((desk.folder / "student" / "bundle.json").read_bytes())["provenance"]
    assert set(made["inputs"]) == inputs
    assert desk.run(source, "again") == numbers
    assert len(fed) == 3, "finished work is taken"
    assert read_bundle(desk.folder / "again")[1] == read_bundle(desk.folder / "student")[1]


def test_the_best_epoch_is_told_with_its_scores_and_to_whoever_evaluates_it(desk: Desk) -> None:
    numbers = desk.run("set")
    assert set(numbers) >= {"best_epoch", "best_agreement", "best_kl", "best_images", "best_compared"}
    assert numbers["best_compared"] == numbers["epochs"] == 3, "every epoch is a candidate, the last is one of them"
    held_out = int(numbers["best_images"])
    assert held_out == 10
    store = FolderStore(desk.folder / "work" / "store")
    assert not [key for key in store.list("checkpoints") if "/snapshots/" in key], "candidates go once the student is published"
    folder = desk.folder / "student"
    report, page = desk.folder / "report.json", desk.folder / "page.html"
    common = {"seed": 1, "code_version": code_version(), "teacher_sha256": desk.sha256, "evaluation": {"latency": False}}
    inputs = evaluate.Inputs(teacher_uri=str(desk.teacher), student=folder, set=desk.set)
    evaluate.run(common, inputs, evaluate.Outputs(report=report, page=page))
    (best,) = load_report(report).best
    assert (best.epoch, best.chosen_on) == (numbers["best_epoch"], held_out)
    assert f"chosen on {held_out} images kept back" in page.read_text()
    copied = shutil.copytree(folder, desk.folder / "elsewhere" / "student")
    assert open_model(copied).chosen == (numbers["best_epoch"], held_out), "a copy knows it too"
    (copied / "best" / "choice.json").unlink()
    assert open_model(copied).chosen == (0, 0), "one from before it was noted"
    if numbers["best_epoch"] == numbers["epochs"]:
        assert read_bundle(folder)[1] == read_bundle(folder / "best")[1]


def test_real_labels_are_what_the_hard_term_is_measured_on(desk: Desk) -> None:
    right = desk.run("real")
    np.savez(desk.data, images=np.load(desk.data)["images"], labels=((desk.labels + 1) % 4).numpy())
    with pytest.raises(CheckpointMismatchError, match="was .* when the run was planned: plan it again"):
        desk.run("real", "changed")
    desk.refer()
    wrong = desk.run("real", "wrong")
    assert wrong["student/ce"] > right["student/ce"] + 0.3, "other labels are other work, and contradict the pictures"


@pytest.mark.parametrize(("source", "steps"), [("set", 5), ("real", 5)])
def test_an_epoch_without_a_length_is_one_pass(source: str, steps: int, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    enter = StudentTrainer.__init__

    def spy(self: StudentTrainer, stages: Any, *more: Any) -> None:
        found.append(stages[0].steps_per_epoch)
        enter(self, stages, *more)

    monkeypatch.setattr(StudentTrainer, "__init__", spy)
    desk.run(source, steps_per_epoch=0)
    assert found == [steps]


def test_a_live_synthesizer_goes_on_where_its_images_were(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    train: Callable[..., dict[str, float]] = StudentTrainer.train

    def killed(self: StudentTrainer, steps: int, feed: Any) -> dict[str, float]:
        if self.epochs == 1:
            raise KeyboardInterrupt
        return train(self, steps, feed)

    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.run("live")
    numbers = desk.run("live")
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(desk.folder / "elsewhere"))
    assert desk.run("live", "whole") == numbers
    assert read_bundle(desk.folder / "whole")[1] == read_bundle(desk.folder / "student")[1]


@pytest.mark.parametrize(
    ("source", "more", "sentence"),
    [
        ("", {}, "one source, not none: give exactly one of set, synthesizer"),
        ("live", {"set": Path("set")}, "one source, not set and synthesizer"),
        ("real", {"statistics": Path("moments")}, "only read for a synthesizer"),
        ("live", {"statistics": None}, "needs the teacher's statistics"),
        ("live", {"steps_per_epoch": 0}, "steps_per_epoch = 0"),
    ],
)
def test_sources_that_do_not_fit_are_one_sentence(source: str, more: dict[str, Any], sentence: str, desk: Desk) -> None:
    with pytest.raises(ConfigError, match=sentence) as said:
        desk.run(source, **more)
    assert str(said.value).count(". ") == 0
    assert not (desk.folder / "student").exists()


def test_data_and_synthesizers_of_something_else_are_refused(desk: Desk) -> None:
    np.savez(desk.data, images=np.zeros((4, 9, 9), np.uint8), labels=np.zeros(4, np.int64))
    with pytest.raises(ConfigError, match="9 x 9"):
        desk.run("real")
    np.savez(desk.data, images=np.zeros((4, 8, 8), np.uint8), labels=np.full(4, len(CLASSES)))
    with pytest.raises(ConfigError, match="label 4"):
        desk.run("real")
    state = SynthesizerState("ls_gdfd", {}, "0" * 64, {})
    save_synthesizer(desk.synthesizer, state, PROVENANCE)
    with pytest.raises(CheckpointMismatchError, match="trained against teacher"):
        desk.run("live")


def test_features_then_labels_train_a_plain_student_on_real_images_and_are_refused_on_synthetic_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    hint = {"name": "hint", "teacher": "network.blocks.1", "student": "network.blocks.1"}
    common = {"epochs": 1, "batch": 8, "steps_per_epoch": 2, "clip": 1.0}
    first = {**common, "objectives": [{"name": "matrix"}, hint], "trains": ["network.stem", "network.blocks"]}
    second = {**common, "objectives": [{"name": "true_labels"}, {"name": "kd"}]}
    section = {**desk.section(), "student": {"architecture": TINY.to_json(), "stages": [first, second]}}
    monkeypatch.setattr(desk, "section", lambda steps: section)
    numbers = desk.run("real")
    assert {name for name in numbers if name.startswith("student/")} == {"student/ce", "student/kd", "student/rate"}
    student = load_classifier(desk.folder / "student")
    assert set(student.state_dict()) == set(load_classifier(desk.teacher).state_dict())
    with pytest.raises(ConfigError, match="objective true_labels of student.stages.1 needs true labels"):
        desk.run("set", "other")
    assert not (desk.folder / "other").exists()
