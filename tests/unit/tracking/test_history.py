import json
from pathlib import Path

import pytest

from distillery.engine.stopwatch import Stopwatch
from distillery.errors import StoreError
from distillery.storage import open_store
from distillery.tracking.history import (
    BLOCK,
    FILE,
    FOLDER,
    Entry,
    History,
    close_history,
    finite,
    read_history,
    resume_history,
    write_history,
)


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
    seconds = [{"student": 1.0}, {"student": 2.0, "io": 0.5}, {}]
    write_history(store, [Entry(numbers=finite(told), seconds=took) for told, took in zip(numbers, seconds, strict=True)])
    assert read_history(store).seconds() == {"student": 3.0, "io": 0.5}
    close_history(store, {"io": 0.25})
    assert store.list() == [FILE]
    history = read_history(store)
    assert history.curve("student/kd") == [(1, 2.0), (3, 1.0)]
    assert history.curve("holdout/agreement") == [(1, 0.5)]
    assert history.names("student/") == ["student/kd"]
    assert history.seconds() == {"student": 3.0, "io": 0.75}
    assert json.loads((tmp_path / FILE).read_bytes())["format"] == "distillery-history"


def rounds_of(count: int, first: int = 0) -> list[Entry]:
    return [Entry(numbers={"student/kd": float(number)}) for number in range(first, count)]


def test_a_save_writes_no_more_than_a_block_of_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    write_history(store, rounds_of(5 * BLOCK + 3))
    written: list[str] = []
    write = type(store).write
    monkeypatch.setattr(type(store), "write", lambda self, key, data: (written.append(key), write(self, key, data)))
    write_history(store, rounds_of(5 * BLOCK + 4, first=5 * BLOCK), before=5 * BLOCK)
    assert written == [f"{FOLDER}/000005.json"]
    assert read_history(store).curve("student/kd")[-1] == (5 * BLOCK + 4, 5.0 * BLOCK + 3)


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_not_its_history(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_history(store, rounds_of(BLOCK + 2))
    assert resume_history(store, BLOCK - 1) == (tuple(rounds_of(BLOCK - 1)), BLOCK - 1)
    write_history(store, rounds_of(BLOCK - 1))
    assert len(read_history(store).rounds) == BLOCK - 1, "the block behind one that is not full is another start's"
    assert resume_history(store, BLOCK) == (tuple(rounds_of(BLOCK - 1)), 0), "what is short is written again whole"


def test_a_history_that_was_closed_is_gone_on_with(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_history(store, rounds_of(BLOCK + 2))
    close_history(store, {"io": 1.0})
    assert resume_history(store, BLOCK + 1) == (tuple(rounds_of(BLOCK + 1)), 0)
    write_history(store, rounds_of(BLOCK + 1))
    assert len(read_history(store).rounds) == BLOCK + 1
    close_history(store, {})
    assert len(read_history(store).rounds) == BLOCK + 1


def test_a_damaged_history_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(StoreError, match="history"):
        read_history(open_store(str(tmp_path)))
