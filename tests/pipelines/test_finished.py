"""One offline run by the command: what it shows and leaves, the audit of it, and what the next run says of damage to it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from chains import changed
from commands import APP, distillery

KEPT = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DISTILLERY_", "KFP_"))}
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Finished:
    """A run that ended well, its folder with store/ and work/, and what it showed."""

    folder: Path
    words: tuple[str, ...]
    shown: str

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def call(self, *words: str, start: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {**KEPT, "OMP_NUM_THREADS": "1", "DISTILLERY_WORKDIR": str(self.folder / "work")}
        command = [*(start or distillery()), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)

    def tree(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in self.store.rglob("*")}


@pytest.fixture(scope="module")
def finished(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    places = ("--store", str(folder / "store"), "--workdir", str(folder / "work"), "--threads", "1")
    words = ("run", str(desk / "offline.yaml"), "--teacher", str(desk / "teacher"), *places, "--set", "student.stages.0.epochs=1")
    done = Finished(folder, words, "").call(*words, start=[sys.executable, "-m", APP])
    assert (done.returncode, done.stderr) == (0, "")
    return Finished(folder, words, done.stdout)


def test_it_shows_its_steps_and_is_recorded(finished: Finished) -> None:
    assert [line.split()[0] for line in finished.shown.splitlines()[:7]] == [f"{step}/7" for step in range(1, 8)]
    assert "agreement only" in finished.shown
    (path,) = finished.store.glob("runs/*/run.json")
    record = json.loads(path.read_bytes())
    assert record["pipeline"] == "generative_distillation"
    assert record["parameters"]["run_overrides"] == {"student.stages.0.epochs": 1}
    assert (finished.store / record["results"]["dataset"]["place"] / "manifest.json").is_file()


def test_it_leaves_a_chain_that_holds_until_a_byte_is_changed(finished: Finished) -> None:
    shown = finished.call("audit", "distillery-student@champion", "--strict")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "9 links hold, none is broken" in shown.stdout
    (student,) = (finished.store / "students").iterdir()
    links = json.loads(finished.call("audit", str(student), "--strict", "--json").stdout)
    assert [link["name"] for link in links] == ["student", "run", "set", "generator", "statistics", "teacher"]
    assert (links[0]["sha256"], {link["state"] for link in links}) == (student.name, {"ok"})

    shard = next((finished.store / "sets").glob("*/shards/*"))
    with changed(shard, shard.read_bytes()[:-1] + b"\x55"):
        broken = finished.call("audit", "distillery-student@champion")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith("distillery: The chain is broken at the set: the shard 'shards/")
    assert broken.stderr.count("\n") == 1


def test_a_run_on_a_damaged_set_says_one_sentence_and_changes_nothing(finished: Finished) -> None:
    shard = next((finished.store / "sets").glob("*/shards/*"))
    with changed(shard, shard.read_bytes()[: shard.stat().st_size // 2]):
        before = finished.tree()
        done = finished.call(*finished.words, "--set", "student.stages.0.optimizer.rate=0.05")
        assert done.returncode == 1, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert shard.name in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert finished.tree() == before
