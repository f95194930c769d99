"""How far a step is: a file that `distillery run` draws a bar from, a bar in a terminal, one log line an epoch, word to a host."""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distillery.host import ProgressEvent, watcher

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TICKS = 0.2


class Progress:
    """Progress of one step.

    Args:
        folder: where `<step>.json` is replaced atomically; an unwritable folder is ignored, because progress is only looked at.
        step: the step's name.
    """

    def __init__(self, folder: Path, step: str) -> None:
        self.path = folder / f"{step}.json"
        self.step = step
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._ticked = 0.0

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and watcher() is None:
            from rich.progress import Progress as Bar

            self._bar = Bar(transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def write(self, stage: str, done: int, total: int, numbers: Mapping[str, float] | None = None) -> None:
        """One epoch or round is over: replace the file, move the bar, log one line.

        Args:
            stage: what is being done, in a few words.
            done: finished rounds, epochs or images.
            total: how many there will be.
            numbers: the epoch's numbers.
        """
        text = "  ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())
        logger.info("%s %d/%d  %s", stage, done, total, text)
        self._show(stage, done, total, dict(numbers or {}))

    def tick(self, stage: str, done: int, total: int) -> None:
        """Something within an epoch is over: as `write`, without a log line, and not more often than a watcher can see."""
        if time.monotonic() - self._ticked >= _SECONDS_BETWEEN_TICKS:
            self._show(stage, done, total, {})

    def _show(self, stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        self._ticked = time.monotonic()
        document: dict[str, Any] = {"step": self.step, "stage": stage, "done": done, "total": total, "numbers": numbers}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document))
            os.replace(temporary, self.path)
        if tell := watcher():
            tell(ProgressEvent(**document))
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(stage, total=total)
            self._bar.update(self._task, description=stage, completed=done, total=total)
