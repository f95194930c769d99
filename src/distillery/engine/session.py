"""What every loop runs in: where it saves, whom it tells, and the history of its numbers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distillery.data.shards import ShardEntry
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.progress import Progress
from distillery.engine.stopwatch import Stopwatch
from distillery.errors import DistilleryError
from distillery.storage import Store
from distillery.tracking.history import read_history, write_history

Review = Callable[[Store, Sequence[ShardEntry]], None]
"""Looks at the shards of a set before it is published, and raises where it must not be."""


def accept(store: Store, entries: Sequence[ShardEntry]) -> None:
    """Let every set be published."""


def ignore(values: Mapping[str, float], step: int) -> None:
    """Record nothing."""


@dataclass
class Session:
    """Surroundings of one loop.

    Attributes:
        checkpoints: of this loop.
        progress: how far it is.
        record: takes the numbers of a round or epoch, counted from 1: a tracker's `metrics`.
        every: rounds between two checkpoints; the last round always has one.
        history: numbers of every finished round; part of the checkpoint.
        clock: where the time goes.
        seconds: of every finished round by part; observations, kept beside the checkpoint and never in it.
    """

    checkpoints: Checkpoints
    progress: Progress
    record: Callable[[Mapping[str, float], int], None] = ignore
    every: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    clock: Stopwatch = field(default_factory=Stopwatch)
    seconds: list[dict[str, float]] = field(default_factory=list)

    def resume(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, its history recorded again so that an observer's curves are whole; None at the start."""
        found = self.checkpoints.load()
        if found is None:
            return None
        done, state = found
        self.history = state["history"]
        assert len(self.history) == done, "a checkpoint's history does not match its round"
        self.seconds = self._known_seconds()
        for number, numbers in enumerate(self.history, start=1):
            self.record(numbers, number)
        return state

    @property
    def done(self) -> int:
        """Finished rounds."""
        return len(self.history)

    def note(self, stage: str, total: int, numbers: dict[str, float], done: int = 0) -> None:
        """A round is over: remember and tell its numbers.

        Args:
            stage: what is being done.
            total: what the whole of it is counted as.
            numbers: of this round.
            done: how much of `total` is done; 0 means the rounds themselves are counted.
        """
        self.history.append(numbers)
        self.seconds.append(self.clock.lap())
        self.record(numbers, self.done)
        self.progress.write(stage, done or self.done, total, numbers)

    def tick(self, stage: str, detail: str, total: int) -> None:
        """Something within the present round is over; changes nothing but what a watcher sees."""
        self.progress.tick(f"{stage} {self.done + 1}, {detail}", self.done, total)

    def is_due(self, total: int) -> bool:
        """Whether the round just noted ends with a checkpoint."""
        return self.done % self.every == 0 or self.done == total

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of the finished rounds, and beside it their history for people."""
        with self.clock.part("io"):
            self.checkpoints.save(self.done, {**state, "history": self.history})
        for part, seconds in self.clock.lap().items():
            self.seconds[-1][part] = self.seconds[-1].get(part, 0.0) + seconds
        write_history(self.checkpoints.store, self.history, self.seconds)

    def _known_seconds(self) -> list[dict[str, float]]:
        """Seconds of the rounds in the checkpoint; a history that cannot be read costs nothing but them."""
        known: list[dict[str, float]] = []
        with suppress(DistilleryError):
            known = [dict(entry.seconds) for entry in read_history(self.checkpoints.store).rounds]
        return [*known, *({} for _ in self.history)][: len(self.history)]
