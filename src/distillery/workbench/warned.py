"""What a step warned of, beside its log: a file from which `distillery run` tells it when the run ends, and part of the step's result."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillery.storage.workspace import workspace

LOGGER = logging.getLogger("distillery")
_SURROUNDINGS = ("distillery.tracking", "distillery.storage", "distillery.engine.checkpoint", "distillery.storage.locks")
"""They warn of this process and this machine, not of the work, so nothing of theirs is told when finished work is taken again."""


class Warned(logging.Handler):
    """Keeps the warnings of one step, each sentence once, and writes them down as they come.

    Args:
        step: the step's name.
        path: the file; one that cannot be written is ignored, because it is only looked at.

    Attributes:
        sentences: all of them.
        lasting: those about the work itself.
    """

    def __init__(self, step: str, path: Path) -> None:
        super().__init__(logging.WARNING)
        self.step, self.path = step, path
        self.sentences: list[str] = []
        self.lasting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        sentence = " ".join(record.getMessage().split())
        if sentence in self.sentences:
            return
        self.sentences.append(sentence)
        if not record.name.startswith(_SURROUNDINGS):
            self.lasting.append(sentence)
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"step": self.step, "warnings": self.sentences}))


@contextmanager
def keeping_warnings(step: str) -> Iterator[None]:
    """Keep what is warned of within the block in `<workspace>/warnings/<step>.json`; within a block of the same step, do nothing more."""
    if warned_by(step) is not None:
        yield
        return
    path = workspace() / "warnings" / f"{step}.json"
    with suppress(OSError):
        path.unlink()
    handler = Warned(step, path)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def warned_by(step: str) -> Warned | None:
    """What the step that runs has warned of so far; None where it does not run."""
    return next((handler for handler in LOGGER.handlers if isinstance(handler, Warned) and handler.step == step), None)


def read_warnings(folder: Path, step: str) -> tuple[str, ...]:
    """The warnings of a step's last run; none where the file cannot be read, for the log has them all.

    Args:
        folder: `<workspace>/warnings`.
        step: the step's name.
    """
    try:
        found = json.loads((folder / f"{step}.json").read_bytes())["warnings"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(str(sentence) for sentence in found) if isinstance(found, list) else ()
