"""A step killed in any of its writes can be finished, and two workers of one key end with one whole result, whoever comes between."""

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from buckets import Bucket, Killed, Turns, Watch, killing
from distillery.api.running import run_step
from distillery.data.given import write_images_reference
from distillery.data.pool import quantize
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.methods.catalog import find_method
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.seeding import seeded
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import Moments, save_moments
from distillery.step_table import STEPS
from distillery.steps import extract_class_statistics, extract_statistics
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.types import Classifier
from distillery.workbench.assembly import PlannedMethod
from distillery.workbench.given import open_source
from fakes import TINY, FakeSynthesizer, quadrants, tiny_teacher

PROVENANCE = Provenance(code_version="1")
METHOD = {"method": "ls_gdfd", "method_config": {"generator": {"name": "conditional", "condition": "one_hot", "latent": 8, "width": 4}}}
STUDENT = {
    "architecture": TINY.to_json(),
    "stages": [{"epochs": 2, "batch": 8, "steps_per_epoch": 1, "objectives": [{"name": "kd"}]}],
    "keep_epochs": 1,
}
ONLINE = {**METHOD, "rounds": 2, "student": STUDENT, "student_steps_per_turn": 1, "feed": "pool", "holdout": 0.2}
SET = {"size": 12, "batch": 12, "holdout": 0.2, "shard_images": 4, "max_oversampling": 4}
SECTIONS: dict[str, dict[str, Any]] = {
    "extract_statistics": {"kind": "global"},
    "train_generator": {**METHOD, "rounds": 2},
    "materialize": {**METHOD, "set": SET},
    "open_set": {},
    "extract_class_statistics": {},
    "train_student": {"student": STUDENT},
    "distill_online": ONLINE,
}


def hardware() -> int:
    """What the calling worker computes on; another number computes other bytes under the same key."""
    name = threading.current_thread().name
    return int(name) if name.isdecimal() else 0


@dataclass
class Ground:
    """Inputs of every step, made once."""

    folder: Path
    sha256: str = ""

    def __post_init__(self) -> None:
        classifier = tiny_teacher(steps=25)
        self.sha256 = save_classifier(self.folder / "teacher", classifier, TINY, PROVENANCE)
        save_moments(self.folder / "statistics", global_moments(load_classifier(self.folder / "teacher"), self.sha256), PROVENANCE)
        images, labels = quadrants(24, torch.Generator().manual_seed(0))
        np.savez(self.folder / "real.npz", images=(images * 255).round().to(torch.uint8).numpy(), labels=labels.numpy())
        info = read_bundle(self.folder / "teacher")[0]
        self.found = found = open_source(str(self.folder / "real.npz"), info, self.sha256, info.class_names, labels=True)
        write_images_reference(self.folder / "given", found.facts(info), found.uri, PROVENANCE)
        config = find_method("ls_gdfd").load()[1].parse(METHOD["method_config"]).to_json()
        state = SynthesizerState("ls_gdfd", config, self.sha256, FakeSynthesizer(classifier, 3).state_dict())
        save_synthesizer(self.folder / "synthesizer", state, PROVENANCE)

    def work(self, step: str, out: Path) -> dict[str, float]:
        """Do a step."""
        common = {"seed": 1, "code_version": code_version(), "teacher_sha256": self.sha256, "precision": "float32"}
        given, places = {"teacher_uri": str(self.folder / "teacher")}, {name: out / name for name in STEPS[step].writes}
        if step in ("train_student", "extract_class_statistics"):
            places["set"] = self.folder / "given"
        else:
            places |= {name: self.folder / name for name in STEPS[step].reads}
        section = SECTIONS[step]
        if step == "open_set":
            given["images_uri"] = str(self.folder / "real.npz")
            section = self.found.section(read_bundle(self.folder / "teacher")[0])
        return run_step(step, {**common, **section}, places, given)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(autouse=True)
def _other_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"WORKDIR": str(tmp_path / "work"), "DEVICE": "cpu", "STORE": "s3://bucket"}.items():
        monkeypatch.setenv(f"DISTILLERY_{name}", value)
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    # every worker has a workspace of his own, so that no lock is met
    monkeypatch.setattr("distillery.workbench.bench.workspace", lambda: tmp_path / f"work of {threading.current_thread().name}")
    monkeypatch.setattr(
        PlannedMethod,
        "build",
        lambda plan, teacher, runtime, seed, turns=1, ood=None, share=None: FakeSynthesizer(teacher.classifier, seed + hardware()),
    )
    monkeypatch.setattr("distillery.workbench.assembly.seeded", lambda seed, name: seeded(seed + hardware(), name))
    monkeypatch.setattr("distillery.engine.materialize.quantize", lambda images: quantize((images + 0.02 * hardware()).clamp(max=1)))
    read = extract_statistics.read_moments

    def moments(teacher: Classifier, sha256: str) -> Moments:
        found = read(teacher, sha256)
        return replace(found, mean={path: mean + hardware() for path, mean in found.mean.items()})

    monkeypatch.setattr(extract_statistics, "read_moments", moments)
    measured = extract_class_statistics.class_moments

    def of_classes(*given: Any) -> Moments:
        found = measured(*given)
        return replace(found, mean={path: mean + hardware() for path, mean in found.mean.items()})

    monkeypatch.setattr(extract_class_statistics, "class_moments", of_classes)
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)  # two threads put it back in any order


@contextmanager
def reached(bucket: Bucket) -> Iterator[Bucket]:
    """The bucket behind s3://bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("distillery.workbench.bench", "distillery.data.store"):
            patch.setattr(f"{name}.open_store", bucket.opened)
        yield bucket


def handed_on(out: Path) -> dict[str, str]:
    """sha256 of every file that a worker hands on; a reference holds a place only."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "reference.json")
    return {path.relative_to(out).as_posix(): sha256_bytes(path.read_bytes()) for path in files}


def flat(outputs: dict[str, dict[str, str]]) -> dict[str, str]:
    """Outputs of a result, as `Worker.outputs` lists them."""
    return {f"{output}/{name}".rstrip("/"): sha256 for output, files in outputs.items() for name, sha256 in files.items()}


def offers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, str]]]:
    """What each worker has made himself, by his hardware, filled in as they finish."""
    made: list[tuple[int, dict[str, str]]] = []
    finish = Checkpoints.finish

    def spy(self: Checkpoints, result: dict[str, Any]) -> dict[str, Any]:
        made.append((hardware(), flat(result["outputs"])))
        return finish(self, result)

    monkeypatch.setattr(Checkpoints, "finish", spy)
    return made


def check_whole(bucket: Bucket, step: str, expected: dict[str, str]) -> None:
    """The bucket holds one result, with these outputs, all of them there; of a set the one that is published."""
    (key,) = (name for name in bucket.objects if name.endswith("/result.json"))
    named = json.loads(bucket.objects[key])["result"]["outputs"]
    assert flat(named) == expected
    (record,) = (name for name in bucket.objects if name.startswith("runs/run-1/steps/"))
    assert json.loads(bucket.objects[record])["outputs"] == named
    folder = key.removesuffix("result.json")
    kept = {sha256_bytes(data) for name, data in bucket.objects.items() if name.startswith(f"{folder}outputs/")}
    assert kept >= set(expected.values())
    if "set/manifest.json" in expected:
        published = SyntheticSet(bucket.below(f"sets/{folder.split('/')[2]}"))
        published.verify()
        assert published.digest == expected["set/manifest.json"]


@pytest.mark.parametrize("step", SECTIONS)
def test_a_step_killed_in_any_of_its_writes_ends_as_one_left_alone(step: str, ground: Ground, tmp_path: Path) -> None:
    requests: list[str] = []
    with reached(Bucket({}, watch=lambda kind, key: requests.append(f"{kind} {key}"))) as bucket:
        numbers = ground.work(step, tmp_path / "alone")
    expected = handed_on(tmp_path / "alone")
    check_whole(bucket, step, expected)
    for number in range(1, len(requests) + 1):
        objects: dict[str, bytes] = {}
        out = tmp_path / str(number)
        with pytest.raises(Killed), reached(Bucket(objects, watch=killing(number))):
            ground.work(step, out)
        with reached(Bucket(objects)) as bucket:
            assert ground.work(step, out) == numbers
        assert handed_on(out) == expected, requests[number - 1]
        check_whole(bucket, step, expected)


@pytest.mark.parametrize("step", [step for step in SECTIONS if step != "open_set"])  # which computes nothing, so two write the same
def test_two_workers_who_come_between_each_other_end_with_one_whole_result(
    step: str, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = offers(monkeypatch)
    winners, met = set(), 0
    for seed in range(8):
        offered.clear()
        turns = Turns(seed)
        out = {name: tmp_path / f"{seed} {name}" for name in ("0", "1")}
        with reached(Bucket({}, watch=turns.watch, honest=seed % 2 == 0)) as bucket:
            assert turns.play({name: partial(ground.work, step, folder) for name, folder in out.items()}) == {}
        result = handed_on(out["0"])
        assert handed_on(out["1"]) == result
        check_whole(bucket, step, result)
        assert result in [outputs for _, outputs in offered], "a mixture"
        met += len(offered) == 2 and offered[0][1] != offered[1][1]
        winners |= {number for number, outputs in offered if outputs == result}
    assert met > 1, "they made the same, so nothing was seen"
    assert winners == {0, 1}


@pytest.mark.parametrize("step", SECTIONS)
def test_a_second_worker_who_is_killed_leaves_a_step_that_anybody_can_finish(
    step: str, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = offers(monkeypatch)
    requests: list[str] = []
    with reached(Bucket({}, watch=lambda kind, key: requests.append(key))):
        ground.work(step, tmp_path / "alone")
    for back in range(1, 7):  # in one of its last requests: outputs, result, clearing up
        offered.clear()
        turns, kill = Turns(back), killing(len(requests) - back)

        def watch(kind: str, key: str, turns: Turns = turns, kill: Watch = kill) -> None:
            turns.watch(kind, key)
            if threading.current_thread().name == "1":
                kill(kind, key)

        with reached(Bucket({}, watch=watch)) as bucket:
            failed = turns.play({name: partial(ground.work, step, tmp_path / f"{back} {name}") for name in ("0", "1")})
            assert set(failed) <= {"1"}
            ground.work(step, tmp_path / f"{back} third")
        result = handed_on(tmp_path / f"{back} third")
        check_whole(bucket, step, result)
        assert result in [outputs for _, outputs in offered], "a mixture"
        assert "1" in failed or handed_on(tmp_path / f"{back} 1") == result
