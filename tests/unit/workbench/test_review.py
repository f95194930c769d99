"""A generator collapsed on purpose, through the real steps: a warning, or under strict an error and nothing published."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.data.reference import open_reference
from distillery.data.store import SyntheticSet
from distillery.errors import ConfigError
from distillery.evaluation.health import load_health
from distillery.methods.catalog import find_method
from distillery.models.bundle import load_classifier, save_classifier
from distillery.provenance import Provenance, code_version
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.steps import distill_online, materialize
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.synthesis.protocol import Turn
from distillery.types import Batch, Classifier
from distillery.workbench.assembly import PlannedMethod
from distillery.workbench.warned import read_warnings
from fakes import TINY, FakeSynthesizer, quadrants, tiny_teacher

PROVENANCE = Provenance(code_version="1")
CONFIGS = {
    "ls_gdfd": {"generator": {"name": "conditional", "condition": "one_hot", "latent": 8, "width": 4}},
    "fast_dfkd": {"generator": {"name": "generator", "latent": 8, "width": 4}, "batch": 24, "warmup": 0},
}
HEALTH = {"duplicate_similarity": 0.99999, "min_class_distance": 0}  # the tiny teacher sees all pictures of a quadrant at 0.9999
STUDENT = {"architecture": TINY.to_json(), "stages": [{"epochs": 2, "batch": 8, "objectives": [{"name": "kd"}], "steps_per_epoch": 2}]}


class Spread(FakeSynthesizer):
    """Shows bright quadrants over noise: as many pictures as images."""

    def _make(self, n: int, labels: Tensor | None, draws: torch.Generator) -> tuple[Batch, Tensor]:
        images, shown = quadrants(n, draws)
        return Batch(images, shown), images

    def advance(self, student: Classifier | None, labels: torch.Tensor | None = None) -> Turn:
        batch, _ = self._make(24, None, self.learning)
        return Turn({"label": torch.ones(())}, batch, True, {})


class OneClass(Spread):
    """Shows one constant picture."""

    def _make(self, n: int, labels: Tensor | None, draws: torch.Generator) -> tuple[Batch, Tensor]:
        images = torch.full((n, 1, 8, 8), 0.5)
        return Batch(images, torch.zeros(n, dtype=torch.int64)), images


class OnePictureAClass(Spread):
    """Shows each class, and each with one picture only: the quotas are filled, and the histogram is uniform."""

    def _make(self, n: int, labels: Tensor | None, draws: torch.Generator) -> tuple[Batch, Tensor]:
        images, shown = quadrants(64, torch.Generator().manual_seed(1))
        first = torch.stack([images[shown == label][0] for label in range(4)])
        labels = torch.randint(4, (n,), generator=draws)
        return Batch(first[labels], labels), first[labels]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("teacher")
    return folder, save_classifier(folder, tiny_teacher(), TINY, PROVENANCE)


class Bench:
    """Runs either step with a synthesizer of ours in the method's place."""

    def __init__(self, folder: Path, teacher: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.teacher, self.sha256 = teacher
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("DISTILLERY_WORKDIR", str(folder / "work"))
        monkeypatch.setenv("DISTILLERY_STORE", str(folder / "store"))
        monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
        self.statistics = folder / "moments.safetensors"
        save_moments(self.statistics, global_moments(load_classifier(self.teacher), self.sha256), PROVENANCE)

    def run(self, step: str, kind: type[FakeSynthesizer], strict: bool = False, **health: Any) -> dict[str, float]:
        self._monkeypatch.setattr(
            PlannedMethod, "build", lambda plan, teacher, runtime, seed, turns=1, ood=None, share=None: kind(teacher.classifier, seed)
        )
        name = {"materialize": "ls_gdfd", "distill_online": "fast_dfkd"}[step]
        common = {"seed": 1, "code_version": code_version(), "teacher_sha256": self.sha256, "precision": "float32"}
        section = {**common, "method": name, "method_config": CONFIGS[name], "health": {**HEALTH, **health}}
        teacher, synthesizer, made = str(self.teacher), self.folder / "synthesizer", self.folder / "set"
        if step == "distill_online":
            section |= {"rounds": 4, "student": STUDENT, "student_steps_per_turn": 1, "feed": "pool", "holdout": 0.1, "strict": strict}
            outputs = distill_online.Outputs(synthesizer=synthesizer, set=made, student=self.folder / "student")
            return distill_online.run(section, distill_online.Inputs(teacher_uri=teacher, statistics=self.statistics), outputs)
        config = find_method(name).load()[1].parse(CONFIGS[name]).to_json()
        state = kind(load_classifier(self.teacher)).state_dict()
        save_synthesizer(synthesizer, SynthesizerState(name, config, self.sha256, state), PROVENANCE)
        section["set"] = {"size": 120, "batch": 40, "max_oversampling": 3, "strict": strict, "shard_images": 50}
        inputs = materialize.Inputs(teacher_uri=teacher, statistics=self.statistics, synthesizers=(synthesizer,))
        return materialize.run(section, inputs, materialize.Outputs(set=made))

    def tracked(self) -> str:
        return "".join(path.read_text() for path in (self.folder / "work" / "tracking").rglob("*.json"))


@pytest.fixture
def bench(tmp_path: Path, teacher: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, teacher, monkeypatch)


STEPS = pytest.mark.parametrize("step", ["materialize", "distill_online"])


@STEPS
def test_a_spread_set_is_published_without_a_word(step: str, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    numbers = bench.run(step, Spread, strict=True)
    assert numbers["health/findings"] == 0
    assert numbers["health/distance"] > 0.1
    assert not [record for record in caplog.records if "Health" in record.message]
    report = load_health(bench.folder / "set" / "health.json")
    assert report.features == "network.head"
    assert report.images == open_reference(bench.folder / "set").manifest.images
    assert "no findings" in bench.tracked()


@STEPS
@pytest.mark.parametrize(
    ("kind", "said"), [(OneClass, "The images look alike"), (OnePictureAClass, "nearly repeat an earlier one")], ids=["class", "picture"]
)
def test_a_collapsed_set_is_published_with_a_warning(
    step: str, kind: type[FakeSynthesizer], said: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        numbers = bench.run(step, kind)
    report = load_health(bench.folder / "set" / "health.json")
    assert any(said in finding for finding in report.findings)
    assert numbers["health/findings"] == len(report.findings) > 0
    assert numbers["health/duplicates"] > 0.9
    warned = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Health of the set: ")]
    assert warned == [f"Health of the set: {finding}" for finding in report.findings]
    assert said in bench.tracked()
    for _ in range(2):
        assert set(warned) <= set(read_warnings(bench.folder / "work" / "warnings", step)), "what `distillery run` shows"
        bench.run(step, kind)  # finished work is taken, and still to be told of
    open_reference(bench.folder / "set").verify()


@STEPS
def test_under_strict_nothing_is_published(step: str, bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"^The set has collapsed and set\.strict is on, so nothing is published: .*nearly repeat"):
        bench.run(step, OnePictureAClass, strict=True)
    assert list((bench.folder / "store").rglob("manifest.json")) == []
    assert not any((bench.folder / name).exists() for name in ("set", "student"))
    failure = json.loads((bench.folder / "work" / "errors" / f"{step}.json").read_text())
    assert failure["message"].count(". ") == 0, "one sentence"
    assert "nearly repeat" in bench.tracked()
    with pytest.raises(ConfigError, match="has collapsed"):
        bench.run(step, OnePictureAClass, strict=True)  # what is kept of the refused run publishes nothing later either
    assert list((bench.folder / "store").rglob("manifest.json")) == []


@STEPS
def test_thresholds_of_the_section_decide(step: str, bench: Bench) -> None:
    numbers = bench.run(step, OnePictureAClass, strict=True, max_duplicates=1.0)
    assert numbers["health/findings"] == 0
    assert numbers["health/duplicates"] > 0.9


def test_the_histogram_counts_all_images_and_the_rest_a_sample(bench: Bench) -> None:
    bench.run("materialize", Spread, sample=17)
    report = load_health(bench.folder / "set" / "health.json")
    made = open_reference(bench.folder / "set")
    assert report.sampled == 17
    assert report.counts == made.manifest.counts
    assert report.images == sum(report.counts) == made.manifest.images > 100


def test_a_finished_step_brings_its_report_back(bench: Bench) -> None:
    first = bench.run("materialize", Spread)
    path = bench.folder / "set" / "health.json"
    before = path.read_bytes()
    path.unlink()
    assert bench.run("materialize", Spread) == first
    assert path.read_bytes() == before
    assert isinstance(open_reference(bench.folder / "set"), SyntheticSet)
