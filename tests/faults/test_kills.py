"""Runs killed by SIGKILL and resumed end as runs left alone: same student, synthesizer, shards and manifest, byte for byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.data.given import load_given
from distillery.data.ood import load_ood
from distillery.data.reference import open_reference
from distillery.methods.catalog import METHODS, Need
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.step_table import STEPS
from fakes import SPEC, TINY, tiny_teacher
from methods import killed as killed_settings
from needed import form_needed
from toy_methods import registered

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

ROUNDS = 7
GENERATORS = 4
STUDENT = {
    "architecture": {"name": "wrn_10_1", "arguments": {"base_width": 8}},
    "stages": [
        {
            "objectives": [{"name": "kd", "temperature": 4}],
            "epochs": 7,
            "steps_per_epoch": 3,
            "batch": 16,
            "augment": {"crop_padding": 1, "flip": True},
        }
    ],
    "keep_epochs": 2,
}
STAGED = {
    "architecture": {"name": "resnet8", "arguments": {"base_width": 4}},
    "stages": [
        {**STUDENT["stages"][0], "objectives": objectives, "epochs": epochs, "optimizer": {"rate": 0.005}}
        for objectives, epochs in (
            ([{"name": "fsp", "projection": True, "shuffled": True, "reduction": "mean"}], 4),
            ([{"name": "kd", "temperature": 4}, {"name": "fitnets", "weight": 100}, {"name": "attention"}], 3),
        )
    ],
}


@dataclass
class Ground:
    """One teacher with its moments, what else methods ask for, and the sections of every step."""

    teacher: Path
    statistics: Path
    classes: Path
    others: str
    others_sha256: str
    common: dict[str, Any] = field(default_factory=dict)

    def online(self, method: str, out: Path, **changes: Any) -> list[tuple[str, dict[str, Any]]]:
        """A method that plays against the student, two closing rounds."""
        section = {
            **self.common,
            "method": method,
            "method_config": killed_settings(method),
            "rounds": ROUNDS,
            "checkpoint_every": 1,
            "student": STUDENT,
            "student_steps_per_turn": 3,
            "closing_rounds": 2,
            "feed": "pool",
            "holdout": 0.1,
            **changes,
        }
        return [self._job("distill_online", section, out)]

    def inverting(self, name: str, out: Path) -> list[tuple[str, dict[str, Any]]]:
        """A set whose images are made from nothing, a student on the set."""
        method = {**self.common, "method": name, "method_config": killed_settings(name)}
        drawn = {"size": 120, "holdout": 0.1, "shard_images": 15, "max_oversampling": 2}
        return [
            self._job("materialize", {**method, "set": drawn}, out, without="synthesizer"),
            self._job("train_student", {**self.common, "student": STUDENT}, out),
        ]

    def measuring(self, name: str, out: Path) -> list[tuple[str, dict[str, Any]]]:
        """A set whose images are made from nothing, and the teacher's statistics of each class on it."""
        method = {**self.common, "method": name, "method_config": killed_settings(name)}
        drawn = {"size": 60, "holdout": 0.0, "shard_images": 15, "max_oversampling": 8}
        return [
            self._job("materialize", {**method, "set": drawn}, out, without="synthesizer"),
            self._job("extract_class_statistics", self.common, out),
        ]

    def offline(self, name: str, out: Path, student: dict[str, Any] = STUDENT) -> list[tuple[str, dict[str, Any]]]:
        """A generator, a set of it, a student on the set."""
        method = {**self.common, "method": name, "method_config": killed_settings(name)}
        # a generator that has hardly learned makes images of one class: its quota alone is several shards
        drawn = {"size": 800, "batch": 24, "holdout": 0.1, "shard_images": 15, "max_oversampling": 2, "labels": "missing"}
        return [
            self._job("train_generator", {**method, "rounds": ROUNDS}, out),
            self._job("materialize", {**method, "set": drawn}, out),
            self._job("train_student", {**self.common, "student": student}, out),
        ]

    def real(self, images: Path, out: Path) -> list[tuple[str, dict[str, Any]]]:
        """A student of two stages on real images and their labels, a fifth of them withheld."""
        classes = tiny_teacher().class_names
        digest = load_given(str(images), SPEC, classes, labels=True).digest
        source = {"sha256": digest, "is_set": False, "labels": True, "classes": classes, "holdout": 0.2}
        hard = [{"name": "kd", "temperature": 4, "hard": 0.5}]
        student = {**STAGED, "stages": [STAGED["stages"][0], {**STAGED["stages"][1], "objectives": hard}], "keep_epochs": 2}
        open_set = self._job("open_set", {**self.common, **source}, out)
        open_set[1]["settings"]["images_uri"] = str(images)
        return [open_set, self._job("train_student", {**self.common, "holdout": 0.2, "student": student}, out)]

    def ensemble(self, out: Path, shards: tuple[tuple[int, int], ...]) -> list[tuple[str, dict[str, Any]]]:
        """Four generators of LS-GDFD in some of the ensemble's shards, a set of all of them."""
        method = {**self.common, "method": "ls_gdfd", "method_config": killed_settings("ls_gdfd")}
        jobs = []
        for first, last in shards:
            section = {**method, "rounds": ROUNDS, "share": {"first": first, "last": last, "total": GENERATORS}}
            jobs.append(self._job("train_generator", section, out, synthesizer=str(out / f"synthesizer/{first}")))
        drawn = {"size": 160, "batch": 24, "shard_images": 15, "max_oversampling": 2, "labels": "missing"}
        return [*jobs, self._job("materialize", {**method, "generators": GENERATORS, "set": drawn}, out)]

    def _job(self, step: str, section: dict[str, Any], out: Path, without: str = "", **more: str) -> tuple[str, dict[str, Any]]:
        row, needs, settings = STEPS[step], needs_of(section), {}
        if "ood" in needs:
            section, settings = {**section, "ood_sha256": self.others_sha256}, {"synth_ood_uri": self.others}
        places = {name: str(out / name) for name in (*row.reads, *row.writes) if name != without}
        if "statistics" in row.reads:
            places["statistics"] = str(self.classes if "class_moments" in needs else self.statistics)
        return step, {"section": section, "teacher_uri": str(self.teacher), "places": {**places, **more}, "settings": settings}


def needs_of(section: dict[str, Any]) -> tuple[Need, ...]:
    """What the method of a section asks for; nothing where it has none."""
    if "method" not in section:
        return ()
    row = METHODS[section["method"]]
    return row.required(row.load()[1].parse(section["method_config"]))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    provenance = Provenance(code_version=code_version())
    teacher = tiny_teacher(steps=20)
    sha256 = save_classifier(folder / "teacher", teacher, TINY, provenance)
    save_moments(folder / "moments.safetensors", global_moments(teacher, sha256), provenance)
    common = {"seed": 5, "code_version": code_version(), "teacher_sha256": sha256, "precision": "float32"}
    given = form_needed({"class_moments", "ood"}, teacher, sha256, folder)
    others = given["synth_ood_uri"]
    classes = Path(given["synth_statistics_uri"])
    return Ground(folder / "teacher", folder / "moments.safetensors", classes, others, load_ood(others, SPEC).digest, common)


class Nursery:
    """The process whose forked children do the jobs."""

    def __init__(self, log: Path) -> None:
        self._log = log
        # a server that another test's module still has in the environment would be told of these runs
        others = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DISTILLERY_", "AWS_"))}
        environment = {**others, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        child = str(Path(__file__).with_name("child.py"))
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, child],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )

    def events(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do a job; what its child says, up to how it ended."""
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            event = json.loads(line)
            yield event
            if event["event"] == "ended":
                return
        raise AssertionError(f"the process that forks children has ended: {self.said()}")

    def said(self) -> str:
        """The end of what it and its children wrote on stderr."""
        return self._log.read_text()[-4000:]

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # a failed test may have left a child waiting to be killed
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    started = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield started
    started.close()


class Runner:
    """Runs one scenario, with its own store and workspace.

    Args:
        nursery: of its processes.
        folder: of all outputs.
        steps: the scenario.
    """

    def __init__(self, nursery: Nursery, folder: Path, steps: list[tuple[str, dict[str, Any]]]) -> None:
        self.nursery = nursery
        self.folder = folder
        self.steps = steps

    def complete(self) -> list[dict[str, Any]]:
        """Run to the end; the events."""
        events = list(self._events({}))
        assert events[-1] == {"event": "ended", "status": 0}, self.nursery.said()
        return events

    def kill_in_write(self, step: str, kind: str, number: int) -> None:
        """Run until the child stands in the middle of the first such write after `number` rounds, and kill it there."""
        pid, killed, before = 0, False, self._half_written()  # by another task of the step, which was killed before
        for event in self._events({"step": step, "kind": kind, "round": number}):
            pid = event.get("pid", pid)
            if event["event"] == "paused":
                assert (event["step"], event["round"]) == (step, number)
                assert len(self._half_written() - before) == 1
                os.kill(pid, signal.SIGKILL)
                killed = True
        assert killed, f"no {kind} was written after round {number} of {step}: {self.nursery.said()}"
        assert event == {"event": "ended", "status": -signal.SIGKILL}

    def _half_written(self) -> set[Path]:
        return {path for path in self.folder.rglob(".tmp-*") if path.is_file()}

    def kill_after_round(self, step: str, number: int, delay: float) -> None:
        """Kill the child some time after it finished that round."""
        pid = 0
        for event in self._events({}):
            pid = event.get("pid", pid)
            if event == {"event": "round", "step": step, "round": number}:
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
        assert event == {"event": "ended", "status": -signal.SIGKILL}, self.nursery.said()

    def hashes(self) -> dict[str, str]:
        """sha256 of everything published: student, synthesizer, shards, manifests; not of references, which hold a path."""
        files = [*self.folder.glob("out/**/*"), *self.folder.glob("store/sets/**/*")]
        found = {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in files if path.is_file()}
        return {name: digest for name, digest in found.items() if not name.endswith("reference.json")}

    def _events(self, target: dict[str, Any]) -> Iterator[dict[str, Any]]:
        environment = {
            "DISTILLERY_STORE": str(self.folder / "store"),
            "DISTILLERY_WORKDIR": str(self.folder / "work"),
            "DISTILLERY_DEVICE": "cpu",
            "DISTILLERY_THREADS": "1",
        }
        return self.nursery.events({"environment": environment, "steps": self.steps, "target": target})


def both(folder: Path) -> tuple[Path, Path]:
    """Of the run that is left alone, and of the one that is killed."""
    return folder / "alone", folder / "killed"


def check_equal(left_alone: Runner, killed: Runner) -> None:
    expected, found = left_alone.hashes(), killed.hashes()
    assert sorted(expected) == sorted(found)
    assert {name for name in expected if expected[name] != found[name]} == set()
    assert not list((killed.folder / "store").rglob(".tmp-*"))


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if row.coupling == "online"])
def test_online_run_killed_eight_times(method: str, nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.online(method, folder / "out")) for folder in both(tmp_path))
    left_alone.complete()
    # a shard of round r + 1 is written after r finished rounds, the checkpoint of round r after r
    for kind, number in [("shard", 1), ("payload", 2), ("shard", 3), ("pointer", 4), ("snapshot", 4), ("payload", 5), ("payload", 6)]:
        assert 0 < number < ROUNDS
        killed.kill_in_write("distill_online", kind, number)
    killed.kill_after_round("distill_online", 6, delay=random.Random(11).uniform(0, 0.02))
    resumed = killed.complete()
    assert next(event["round"] for event in resumed if event["event"] == "resumed") >= 5
    names = set(left_alone.hashes())
    assert {"out/student/weights.safetensors", "out/student/best/weights.safetensors", "out/synthesizer/state.safetensors"} <= names
    assert sum(name.startswith("store/sets/") for name in names) >= ROUNDS
    check_equal(left_alone, killed)


@pytest.mark.parametrize("way", ["a sample", "a set to begin with"])
def test_turns_killed_with_a_sample_and_with_a_set_to_begin_with(nursery: Nursery, ground: Ground, tmp_path: Path, way: str) -> None:
    changes: dict[str, Any] = {"rounds": 5, "turns_per_round": 3, "student_steps_per_turn": 1, "closing_rounds": 0}
    runners = []
    if way == "a sample":
        changes |= {"feed": "round", "record": 40}
    else:
        before = Runner(nursery, tmp_path / "before", ground.online("fast_dfkd", tmp_path / "before/out", rounds=3, closing_rounds=0))
        before.complete()
        changes |= {"start_sha256": open_reference(tmp_path / "before/out/set").digest}
    for name in ("alone", "killed"):
        runners.append(Runner(nursery, tmp_path / name, ground.online("fast_dfkd", tmp_path / name / "out", **changes)))
        if way != "a sample":
            runners[-1].steps[0][1]["settings"] = {"synth_start_uri": str(tmp_path / "before/out/set")}
    left_alone, killed = runners
    left_alone.complete()
    for kind, number in [("sample", 2), ("pointer", 4)] if way == "a sample" else [("shard", 2), ("history", 3)]:
        killed.kill_in_write("distill_online", kind, number)
    killed.complete()
    check_equal(left_alone, killed)
    made = open_reference(tmp_path / "killed/out/set").manifest
    assert made.seen > made.images if way == "a sample" else made.start_images > 0, "the set is not what this test is about"


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if row.inverts])
def test_inversion_killed_between_and_inside_shards(method: str, nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.inverting(method, folder / "out")) for folder in both(tmp_path))
    events = left_alone.complete()
    batches = [event["round"] for event in events if event["event"] == "round" and event["step"] == "materialize"]
    assert len(batches) >= 5, "too few batches to kill between"
    # a shard is written while its batch is not booked yet; a payload closes a batch, whether a shard was full or not
    for kind, number in [("payload", 1), ("shard", 1), ("pointer", 2), ("shard", 3), ("payload", 4), ("history", 5)]:
        assert 0 < number <= len(batches)
        killed.kill_in_write("materialize", kind, number)
    killed.kill_in_write("train_student", "payload", 2)
    resumed = killed.complete()
    assert next(event["round"] for event in resumed if event["event"] == "resumed") >= 1
    assert sum(name.startswith("store/sets/") for name in left_alone.hashes()) >= 5
    check_equal(left_alone, killed)


def test_statistics_of_each_class_on_images_whose_making_was_killed_are_the_same_bytes(
    nursery: Nursery, ground: Ground, tmp_path: Path
) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.measuring("deep_inversion", folder / "out")) for folder in both(tmp_path))
    left_alone.complete()
    for kind, number in [("shard", 1), ("payload", 3)]:
        killed.kill_in_write("materialize", kind, number)
    killed.complete()
    check_equal(left_alone, killed)
    assert "out/class_statistics" in killed.hashes()


@pytest.mark.parametrize("method", [row.name for row in METHODS.values() if row.coupling == "offline" and not row.inverts])
def test_offline_steps_killed_in_each(method: str, nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.offline(method, folder / "out")) for folder in both(tmp_path))
    events = left_alone.complete()
    shards = [event["round"] for event in events if event["event"] == "round" and event["step"] == "materialize"]
    assert len(shards) >= 5, "too few shards to kill between"
    draws = random.Random(12)
    killed.kill_in_write("train_generator", "payload", 2)
    killed.kill_in_write("train_generator", "payload", 4)
    killed.kill_after_round("train_generator", draws.randint(5, ROUNDS - 1), delay=draws.uniform(0, 0.02))
    for kind, number in [("shard", 1), ("shard", 2), ("payload", 3), ("shard", 4)]:
        assert 0 < number < len(shards)
        killed.kill_in_write("materialize", kind, number)
    killed.kill_in_write("train_student", "payload", 2)
    killed.kill_in_write("train_student", "snapshot", 3)
    killed.kill_in_write("train_student", "payload", 4)
    killed.complete()
    check_equal(left_alone, killed)


def test_a_student_of_two_stages_killed_in_the_first_and_between_them(nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.offline("ls_gdfd", folder / "out", STAGED)) for folder in both(tmp_path))
    left_alone.complete()
    for kind, number in [("payload", 2), ("pointer", 3), ("payload", 4), ("pointer", 4)]:  # the fourth epoch ends the stage of FSP
        killed.kill_in_write("train_student", kind, number)
    killed.kill_after_round("train_student", 4, delay=0.01)
    killed.kill_in_write("train_student", "payload", 6)  # not 5: on a quiet machine that epoch may end before the kill
    killed.complete()
    check_equal(left_alone, killed)


def test_a_student_of_real_images_killed_in_each_stage_and_at_the_best_epoch(nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, *SPEC.shape), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=images, labels=np.arange(60) % len(tiny_teacher().class_names))
    left_alone, killed = (Runner(nursery, folder, ground.real(tmp_path / "real.npz", folder / "out")) for folder in both(tmp_path))
    left_alone.complete()
    for kind, number in [("payload", 2), ("snapshot", 3), ("pointer", 4), ("payload", 6)]:
        killed.kill_in_write("train_student", kind, number)
    killed.complete()
    check_equal(left_alone, killed)
    assert "out/student/best/weights.safetensors" in killed.hashes(), "without held-out images no epoch is the best"


@pytest.mark.parametrize("method", ["toy_critic", "toy_classes"])
def test_what_a_method_asks_for_is_there_again_after_a_kill(method: str, nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    with registered():
        left_alone, killed = (Runner(nursery, folder, ground.offline(method, folder / "out")[:2]) for folder in both(tmp_path))
    left_alone.complete()
    killed.kill_in_write("train_generator", "payload", 3)
    killed.kill_in_write("materialize", "shard", 1)
    killed.complete()
    check_equal(left_alone, killed)


def test_two_shards_of_an_ensemble_killed_and_resumed_each_by_itself(nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    left_alone, killed = (Runner(nursery, folder, ground.ensemble(folder / "out", ((0, 2), (2, 4)))) for folder in both(tmp_path))
    left_alone.complete()
    first, second, draw = killed.steps
    for number, shard in enumerate((second, first)):  # the later one first, and each without the other
        killed.steps = [shard]
        killed.kill_in_write("train_generator", "payload", 2 + number)
        killed.kill_after_round("train_generator", 5, delay=0)
    killed.steps = [second]
    killed.complete()
    killed.steps = [second, first, draw]
    events = killed.complete()
    rounds = [event["round"] for event in events if event["event"] == "round" and event["step"] == "train_generator"]
    assert 0 < len(rounds) <= ROUNDS, "a finished shard is taken from its key, and the other goes on where it was"
    check_equal(left_alone, killed)
    manifest = open_reference(killed.folder / "out/set").manifest
    assert len(manifest.synthesizers) == len(set(manifest.synthesizers)) == 2
    assert manifest.synthesizers == tuple(sha256_file(killed.folder / f"out/synthesizer/{n}/synthesizer.json") for n in (0, 2))


def test_equal_hashes_are_no_accident(nursery: Nursery, ground: Ground, tmp_path: Path) -> None:
    one, two = (Runner(nursery, folder, ground.online("fast_dfkd", folder / "out")) for folder in both(tmp_path))
    two.steps[0][1]["section"]["seed"] = 6
    one.complete()
    two.complete()
    for name in ("out/student/weights.safetensors", "out/synthesizer/state.safetensors"):
        assert one.hashes()[name] != two.hashes()[name]
