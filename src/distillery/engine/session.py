"""What every loop runs in: where it saves, whom it tells, and the history of its numbers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillery.config import Config
from distillery.data.shards import ShardEntry
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.progress import Progress
from distillery.engine.stopwatch import Stopwatch
from distillery.errors import DistilleryError
from distillery.storage import Store
from distillery.tracking.history import BLOCK, Entry, clear_history, finite, resume_history, write_history

logger = logging.getLogger(__name__)

Review = Callable[[Store, Sequence[ShardEntry]], None]
"""Looks at the shards of a set before it is published, and raises where it must not be."""


def accept(store: Store, entries: Sequence[ShardEntry]) -> None:
    """Let every set be published."""


def ignore(values: Mapping[str, float], step: int) -> None:
    """Record nothing."""


def lacking_nothing(rounds: Sequence[Mapping[str, float]]) -> None:
    """Want no round again."""


@dataclass
class Session:
    """Surroundings of one loop.

    Attributes:
        checkpoints: of this loop.
        progress: how far it is.
        record: takes the numbers of a round or epoch, counted from 1: a tracker's `metrics`.
        catch_up: takes the numbers of all rounds that a resumed run finds finished: a tracker's `catch_up`.
        every: rounds between two checkpoints; the last round always has one.
        history: numbers of every finished round; of them the checkpoint holds the last.
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
    catch_up: Callable[[Sequence[Mapping[str, float]]], None] = lacking_nothing
    _written: int = 0  # rounds of the history in the store

    def resume(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, and an observer told of the rounds that it lacks; None at the start."""
        found = self.checkpoints.load()
        if found is None:
            clear_history(self.checkpoints.store)
            return None
        done, state = found
        known = self._known_rounds(done)
        known = [*known, *(Entry() for _ in range(done - len(known)))]
        self.history, self.seconds = [dict(entry.numbers) for entry in known], [dict(entry.seconds) for entry in known]
        # the history keeps finite numbers alone and may be lost; the checkpoint has the last round's as they were
        self.history[-1] = state["last"]
        self.catch_up(self.history)
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

    def save(self, state: dict[str, Any], lists: Mapping[str, Sequence[Config]] | None = None) -> None:
        """Write a checkpoint of the finished rounds, and their history beside it; how many there were costs nothing.

        Args:
            state: of everything that the next round depends on.
            lists: further parts of it that only grow, see `Checkpoints.save`.
        """
        with self.clock.part("io"):
            before = self._written // BLOCK * BLOCK
            new = zip(self.history[before:], self.seconds[before:], strict=True)
            rounds = [Entry(numbers=finite(numbers), seconds=seconds) for numbers, seconds in new]
            write_history(self.checkpoints.store, rounds, before)
            self._written = self.done
            self.checkpoints.save(self.done, {**state, "last": self.history[-1]}, lists)

    def _known_rounds(self, done: int) -> Sequence[Entry]:
        """What the history says of the first rounds; where it cannot be read the run goes on, for nothing is computed from it."""
        try:
            rounds, self._written = resume_history(self.checkpoints.store, done)
        except DistilleryError as error:
            logger.warning("The curves of the rounds before this start are lost: %s", error)
            return ()
        return rounds
