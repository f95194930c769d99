"""Progress for people without a bar: a line where something new begins, and one every few seconds."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from distillery.host import ProgressEvent


def silent(event: ProgressEvent) -> None:
    """Tell nobody."""


class TextProgress:
    """Prints how far a distillation is, a line at a time: `distill(..., progress=TextProgress())`.

    A line comes where a step begins, where one ends, and otherwise not more often than `seconds`.

    Args:
        stream: where to; None is stderr.
        seconds: between two lines of one step.
        clock: tells the time, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._seconds, self._clock = stream, seconds, clock
        self._step, self._told = "", 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Tell of an event, or leave it out."""
        now = self._clock()
        if event.step == self._step and event.done < event.total and now - self._told < self._seconds:
            return
        self._step, self._told = event.step, now
        numbers = "".join(f"  {name} {value:.4g}" for name, value in event.numbers.items())
        print(f"{event.step}: {event.stage} {event.done:,}/{event.total:,}{numbers}", file=self._stream or sys.stderr, flush=True)
