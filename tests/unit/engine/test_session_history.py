"""Seconds are kept beside the checkpoint, survive a resume, and never enter it."""

import logging
from pathlib import Path

import pytest
import torch

from distillery.engine.checkpoint import Checkpoints
from distillery.engine.progress import Progress
from distillery.engine.session import Session
from distillery.engine.stopwatch import Stopwatch
from distillery.engine.terms import TurnWatch
from distillery.storage import open_store
from distillery.synthesis.protocol import Turn
from distillery.tracking.history import FOLDER, History, read_history


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_session(folder: Path, clock: Clock) -> Session:
    return Session(Checkpoints(open_store(str(folder / "store"))), Progress(folder, "step"), clock=Stopwatch(clock))


def make_session_on(folder: Path, clock: Clock) -> Session:
    session = make_session(folder, clock)
    session.resume()
    return session


def play(session: Session, clock: Clock, seconds: float) -> None:
    with session.clock.part("student"):
        clock.now += seconds
    session.note("epoch", 3, {"student/kd": 1.0 / seconds})
    session.save({})


def payload(folder: Path) -> bytes:
    (path,) = (folder / "store" / "payloads").iterdir()
    return path.read_bytes()


def test_seconds_of_finished_rounds_survive_a_resume(tmp_path: Path) -> None:
    clock = Clock()
    play(make_session(tmp_path, clock), clock, 2.0)
    again = make_session(tmp_path, clock)
    again.resume()
    play(again, clock, 4.0)
    history = read_history(again.checkpoints.store)
    assert [entry.seconds["student"] for entry in history.rounds] == [2.0, 4.0]
    assert history.curve("student/kd") == [(1, 0.5), (2, 0.25)]


def test_a_lost_history_costs_curves_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    play(make_session(tmp_path, clock), clock, 2.0)
    play(make_session_on(tmp_path, clock), clock, 5.0)
    (block,) = (tmp_path / "store" / FOLDER).iterdir()
    block.write_text("{")
    again = make_session(tmp_path, clock)
    with caplog.at_level(logging.WARNING):
        again.resume()
    assert "The curves of the rounds before this start are lost: The history history/000000.json" in caplog.text
    assert again.history == [{}, {"student/kd": 0.2}], "the checkpoint holds the last round"
    play(again, clock, 4.0)
    history = read_history(again.checkpoints.store)
    assert [entry.seconds.get("student", 0.0) for entry in history.rounds] == [0.0, 0.0, 4.0]
    assert history.curve("student/kd") == [(2, 0.2), (3, 0.25)]


def test_a_run_that_begins_anew_forgets_what_was_left(tmp_path: Path) -> None:
    clock = Clock()
    session = make_session(tmp_path, clock)
    play(session, clock, 2.0)
    session.checkpoints.store.delete("latest.json")
    again = make_session(tmp_path, clock)
    assert again.resume() is None
    assert read_history(again.checkpoints.store) == History()


def test_an_observer_is_told_once_of_all_rounds_before_a_resume(tmp_path: Path) -> None:
    clock = Clock()
    session = make_session(tmp_path, clock)
    for seconds in (2.0, 4.0):
        play(session, clock, seconds)
    told: list[list[dict[str, float]]] = []
    recorded: list[int] = []
    again = make_session(tmp_path, clock)
    again.catch_up, again.record = (
        (lambda rounds: told.append([dict(numbers) for numbers in rounds])),
        lambda values, step: recorded.append(step),
    )
    again.resume()
    assert told == [[{"student/kd": 0.5}, {"student/kd": 0.25}]]
    assert recorded == []


def test_a_checkpoint_is_the_same_however_long_its_rounds_took(tmp_path: Path) -> None:
    payloads = []
    for name, slow in (("quick", 0.0), ("slow", 60.0)):
        clock = Clock()
        session = make_session(tmp_path / name, clock)
        with session.clock.part("synthesis"):
            clock.now += slow
        play(session, clock, 2.0)
        payloads.append(payload(tmp_path / name))
    assert payloads[0] == payloads[1]


def test_gradient_norms_enter_the_history_where_a_round_gives_them() -> None:
    terms, norms = {"label": torch.tensor(2.0)}, {"label": torch.tensor(0.5)}
    told, silent = TurnWatch(1), TurnWatch(5)
    told.add(Turn(terms, gradient_norms=norms))
    silent.add(Turn(terms))
    assert told.read([]) == {"synthesis/label": 2.0, "gradient/label": 0.5}
    assert silent.read(4 * [{}]) == {"synthesis/label": 2.0}
