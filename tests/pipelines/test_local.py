"""Whole pipelines on this machine, through the command: results, resuming, stopping, and what a killed parent leaves."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillery_kfp.pipelines.runner.child import Watch

COMMAND = [sys.executable, "-m", "distillery_kfp.pipelines.cli.app"]
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DISTILLERY_", "KFP_"))}, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.timeout(600)


def arguments(desk: Path, folder: Path, recipe: str, *more: str) -> list[str]:
    places = ["--store", str(folder / "store"), "--workdir", str(folder / "work"), "--threads", "1"]
    return [*COMMAND, "run", str(desk / recipe), "--teacher", str(desk / "teacher"), *places, *more]


def distil(desk: Path, folder: Path, recipe: str, *more: str) -> str:
    done = subprocess.run(arguments(desk, folder, recipe, *more), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in sorted((folder / "store" / "runs").glob("*/run.json"))]


def running(folder: Path) -> list[int]:
    """Processes that work in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"DISTILLERY_WORKDIR={folder / 'work'}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


STUDENT = """
extends: students/digits-plain
expects: {channels: 1, height: 8, width: 8, classes: 3}
student: {architecture: {name: resnet8, arguments: {base_width: 8}}, stages: {0: {epochs: 2, steps_per_epoch: 2, batch: 8}}}
evaluation: {latency: false}
"""


def test_a_student_of_real_images_by_the_pipeline_of_students(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "student.yaml").write_text(STUDENT)
    given = ["--images", str(desk / "test.npz"), "--set", "data.holdout=0.2"]
    shown = distil(desk, tmp_path, str(tmp_path / "student.yaml"), *given)
    assert [line.split()[0] for line in shown.splitlines()[:5]] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    (record,) = records(tmp_path)
    (student,) = (tmp_path / "store" / "students").iterdir()
    assert record["results"]["student"] == f"students/{student.name}"  # type: ignore[index]
    assert record["parameters"]["images_uri"] == str(desk / "test.npz")  # type: ignore[index]
    assert record["provenance"]["config"]["data"]["holdout"] == 0.2  # type: ignore[index]
    assert not (tmp_path / "store" / "sets").exists(), "real images are never copied"
    again = distil(desk, tmp_path, str(tmp_path / "student.yaml"), *given)
    assert student.name in again
    assert [path.name for path in (tmp_path / "store" / "students").iterdir()] == [student.name]


def test_online_run_and_again(desk: Path, tmp_path: Path) -> None:
    shown = distil(desk, tmp_path, "online.yaml", "--data", str(desk / "test.npz"))
    assert [line.split()[0] for line in shown.splitlines()[:5]] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert "30 images: test set" in shown
    assert "Executing task" not in shown
    (student,) = (tmp_path / "store" / "students").iterdir()
    assert {"bundle.json", "weights.safetensors"} <= {path.name for path in student.iterdir()}
    (record,) = records(tmp_path)
    assert record["results"]["student"] == f"students/{student.name}"  # type: ignore[index]
    page = tmp_path / "store" / str(record["results"]["page"])  # type: ignore[index]
    assert page.name == "report.html"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert f"{page.parent.name}/report.html" in shown
    assert record["parameters"]["run_recipe_uri"] == str(desk / "online.yaml")  # type: ignore[index]
    assert record["provenance"]["config"]["synthesis"]["rounds"] == 3  # type: ignore[index]
    assert list((tmp_path / "work").glob("logs/*.log"))

    again = distil(desk, tmp_path, "online.yaml", "--data", str(desk / "test.npz"))
    assert student.name in again
    assert [path.name for path in (tmp_path / "store" / "students").iterdir()] == [student.name]
    newest = max((tmp_path / "work" / "logs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert "distill_online was done before" in newest.read_text()


def test_an_ensemble_stopped_in_its_second_shard_trains_the_first_no_more(desk: Path, tmp_path: Path) -> None:
    long = ["--set", "synthesis.rounds=400"]
    run = subprocess.Popen(
        arguments(desk, tmp_path, "ensemble.yaml", *long), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    works = tmp_path / "store/checkpoints/train_generator"
    wait_for(lambda: len(list(works.glob("*/latest.json"))) == 1 and len(list(works.glob("*/result.json"))) == 1)
    run.terminate()
    shown, _ = run.communicate(timeout=120)
    assert run.returncode == 143
    steps = [line.split("  ")[0] for line in shown.splitlines() if line[1:3] == "/7"]
    assert steps == ["1/7 plan the run", "2/7 read the teacher's statistics", "3/7 train the generator, shard 1"]
    assert "generators 3  shards 2" in shown.splitlines()[0]
    assert running(tmp_path) == []

    again = distil(desk, tmp_path, "ensemble.yaml", *long)
    assert [line.split("  ")[0] for line in again.splitlines()[2:4]] == [f"3/7 train the generator, shard {number}" for number in (1, 2)]
    newest = max((tmp_path / "work" / "logs").iterdir(), key=lambda path: path.stat().st_mtime).read_text()
    assert newest.count("train_generator was done before") == 1
    assert len(list(works.glob("*/result.json"))) == 2


def test_after_a_failed_shard_no_other_begins() -> None:
    read, write = os.pipe()
    watch = Watch(write)

    def say(message: str) -> None:
        watch.filter(logging.LogRecord("kfp", logging.INFO, "", 0, message, None, None))

    say("Executing task 'train-generator'")
    say("Task 'train-generator' finished with status FAILURE")
    with pytest.raises(SystemExit) as ended:
        say("Executing task 'train-generator'")
    assert ended.value.code == 1
    events = [json.loads(line) for line in os.read(read, 4096).splitlines()]
    assert events == [{"step": "train_generator", "state": state} for state in ("started", "failed")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_run_waits_for_its_step_and_says_how_to_go_on(number: int, code: int, desk: Path, tmp_path: Path) -> None:
    command = arguments(desk, tmp_path, "online.yaml", "--set", "synthesis.rounds=100000")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    wait_for(lambda: list((tmp_path / "store").glob("checkpoints/distill_online/*/latest.json")))
    run.send_signal(number)
    _, said = run.communicate(timeout=120)
    assert run.returncode == code
    assert said.splitlines()[-1] == "distillery: stopped; the same command goes on from the last checkpoint."
    assert "Traceback" not in said
    assert running(tmp_path) == []


def test_killed_run_leaves_no_step_behind(desk: Path, tmp_path: Path) -> None:
    command = arguments(desk, tmp_path, "online.yaml", "--set", "synthesis.rounds=100000")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_for(lambda: list((tmp_path / "store").glob("checkpoints/distill_online/*/latest.json")))
    run.kill()
    run.wait()
    wait_for(lambda: running(tmp_path) == [])
