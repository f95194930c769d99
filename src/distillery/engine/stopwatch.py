"""Where a step's time goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OTHER = "other"
"""Time in no named part: starting up, looking at held-out images, waiting."""


class Stopwatch:
    """Wall time split into parts; each second is charged to the innermost open part.

    Args:
        now: a clock in seconds that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since = now()
        self._open = [OTHER]
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time within the block to `name`."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def lap(self) -> dict[str, float]:
        """Seconds by part since the last lap."""
        self._charge()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _charge(self) -> None:
        now = self._now()
        part = self._open[-1]
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now
