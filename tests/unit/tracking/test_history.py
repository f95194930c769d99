import json
from pathlib import Path

import pytest

from distillery.engine.stopwatch import Stopwatch
from distillery.errors import StoreError
from distillery.storage import open_store
from distillery.tracking.history import FILE, History, close_history, read_history, write_history


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_second_is_charged_to_the_innermost_part() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 1
    with watch.part("synthesis"):
        clock.now += 2
        with watch.part("io"):
            clock.now += 4
        clock.now += 8
    assert watch.lap() == {"other": 1, "synthesis": 10, "io": 4}
    clock.now += 16
    assert watch.lap() == {"other": 16}


def test_a_part_that_fails_is_closed() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def fail() -> None:
        with watch.part("io"):
            clock.now += 1
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    clock.now += 2
    assert watch.lap() == {"other": 2, "io": 1}


def test_a_history_comes_back_from_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_history(store) == History()
    numbers = [{"student/kd": 2.0, "holdout/agreement": 0.5}, {"student/kd": float("inf")}, {"student/kd": 1.0}]
    write_history(store, numbers, [{"student": 1.0}, {"student": 2.0, "io": 0.5}, {}])
    close_history(store, {"io": 0.25})
    history = read_history(store)
    assert history.curve("student/kd") == [(1, 2.0), (3, 1.0)]
    assert history.curve("holdout/agreement") == [(1, 0.5)]
    assert history.names("student/") == ["student/kd"]
    assert history.seconds() == {"student": 3.0, "io": 0.75}
    assert json.loads((tmp_path / FILE).read_bytes())["format"] == "distillery-history"


def test_a_damaged_history_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(StoreError, match="history"):
        read_history(open_store(str(tmp_path)))
