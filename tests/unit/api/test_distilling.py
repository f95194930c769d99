"""`distill` gives what the pipeline gives, goes on where it was, and leaves its process as it found it."""

import gc
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import distillery
from chains import Chain, make_teacher
from distillery import ConfigError, Distilled, DistilleryError, ProgressEvent
from distillery.evaluation.report import load_report
from distillery.ledger.runs import list_runs
from distillery.models.bundle import read_bundle
from distillery.storage import open_store
from tiny_runs import tiny


def short(teacher: Path, out: Path, **more: Any) -> Distilled:
    changes = {**tiny("fast_dfkd/digits"), "synthesis.checkpoint_every": 1}
    return distillery.distill(teacher, "fast_dfkd/digits", out, overrides=changes, device="cpu", **more)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return make_teacher(tmp_path / "teacher")


def test_everything_that_a_result_names_is_there(done: Distilled) -> None:
    assert list(done.steps) == ["extract_statistics", "train_generator", "materialize", "train_student", "evaluate"]
    assert all(path.is_file() for path in (done.statistics, done.report, done.page))
    assert done.page.read_text().startswith("<!DOCTYPE html>")
    assert (done.synthesizer / "synthesizer.json").is_file()
    assert (done.set / "reference.json").is_file()
    report = load_report(done.report)
    assert done.metrics["student/top1"] == report.student.accuracy.top1
    assert (report.images, report.labelled) == (30, True)
    assert report.student.sha256 == read_bundle(done.student)[1]
    assert done.registered == {}
    (run,) = list_runs(open_store(done.store))
    assert (run.id, run.standing) == (done.run_id, "finished")
    assert done.seconds == pytest.approx(sum(step.seconds for step in done.steps.values()))
    student = done.load()
    assert not student.training
    assert student(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_it_is_the_student_that_the_steps_make(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "fast_dfkd/digits", str(tmp_path / "store"), more={"synthesis.checkpoint_every": 1})
    chain.make()
    assert read_bundle(short(chain.teacher, tmp_path / "out").student)[1] == read_bundle(chain.student)[1]


def test_progress_names_every_step_and_ends_whole(done: Distilled, told: list[ProgressEvent]) -> None:
    assert list(dict.fromkeys(event.step for event in told)) == list(done.steps)
    last = {event.step: event for event in told}
    assert all(last[step].done == last[step].total > 0 for step in ("train_generator", "train_student", "evaluate"))
    assert {"train_generator", "train_student"} <= {event.step for event in told if event.numbers}


def test_a_second_call_finds_everything_done(done: Distilled, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    chosen = {"overrides": tiny("ls_gdfd/digits"), "device": "cpu", "store": done.store, "progress": told.append}
    again = distillery.distill(done.teacher, "ls_gdfd/digits", tmp_path / "again", seed=3, **chosen)
    assert {event.step for event in told} == {"evaluate"}  # which is never taken from before
    assert read_bundle(again.student)[1] == read_bundle(done.student)[1]
    assert not load_report(again.report).labelled


def test_a_stopped_call_goes_on_where_it_was(teacher: Path, tmp_path: Path) -> None:
    whole = short(teacher, tmp_path / "whole")

    def stop(event: ProgressEvent) -> None:
        if event.step == "distill_online" and event.numbers and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(teacher, tmp_path / "stopped", progress=stop)
    told: list[ProgressEvent] = []
    resumed = short(teacher, tmp_path / "stopped", progress=told.append)
    assert min(event.done for event in told if event.step == "distill_online" and event.numbers) == 2
    assert read_bundle(resumed.student)[1] == read_bundle(whole.student)[1]


def surroundings() -> dict[str, Any]:
    """Whatever of this process a step in a process of its own would change."""
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "collector": gc.get_threshold(),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "handlers": [list(logger.handlers) for logger in (root, logging.getLogger("distillery"))],
        "levels": [root.level, logging.getLogger("distillery").level],
        "records": logging.getLogRecordFactory(),
        "hooks": [sys.excepthook, threading.excepthook],
        "folder": Path.cwd(),
    }


@pytest.fixture
def free_process(monkeypatch: pytest.MonkeyPatch, python_handlers: None) -> None:
    """As Python starts: nobody handles logging or signals, where a step would do both."""
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)


@pytest.mark.usefixtures("free_process")
def test_the_process_is_left_as_it_was(
    teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    torch.set_num_threads(2)
    seen: list[dict[str, Any]] = []
    before = surroundings()
    try:
        short(teacher, tmp_path / "out", threads=1, progress=lambda event: seen.append(surroundings()))
        assert surroundings() == before
        with pytest.raises(DistilleryError):
            short(tmp_path / "nowhere", tmp_path / "out")
        assert surroundings() == before
    finally:
        torch.set_num_threads(1)
    during = seen[-1]
    assert all(during[name] == before[name] for name in ("signals", "collector", "levels", "hooks", "folder"))
    assert during["handlers"][0] == []
    assert during["threads"] == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert "online: round" not in said.err  # warnings alone are told, by Python's own last resort


def test_it_works_from_a_thread_and_two_take_turns(teacher: Path, tmp_path: Path) -> None:
    results: dict[int, Distilled] = {}
    orders: list[str] = []

    def note(event: ProgressEvent) -> None:
        orders.append(os.environ["DISTILLERY_WORKDIR"])

    def run(number: int) -> None:
        results[number] = short(teacher, tmp_path / str(number), seed=number, progress=note)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {1, 2}
    assert set(orders) == {str(tmp_path / "1" / "work"), str(tmp_path / "2" / "work")}
    changes = sum(first != second for first, second in zip(orders, orders[1:], strict=False))
    assert changes == 1
    assert read_bundle(results[1].student)[1] != read_bundle(results[2].student)[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teacher": torch.nn.Linear(1, 1)}, "teacher is a Linear, where a path or a URI is expected"),
        ({"recipe": "fast_dfkd/digit"}, "There is no recipe 'fast_dfkd/digit'"),
        ({"threads": -1}, "threads = -1 is not allowed"),
        ({"registered": True}, "set MLFLOW_TRACKING_URI"),
        ({"overrides": {"synthesis.runds": 3}}, "runds"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(change: dict[str, Any], sentence: str, teacher: Path, tmp_path: Path) -> None:
    asked = {"teacher": teacher, "recipe": "fast_dfkd/digits", "out": tmp_path / "out", **change}
    with pytest.raises(ConfigError, match=sentence):
        distillery.distill(**asked)
    assert not list(tmp_path.glob("out/*"))


def test_a_result_can_be_moved(done: Distilled, tmp_path: Path) -> None:
    assert replace(done, folder=tmp_path).student == tmp_path / "student"
