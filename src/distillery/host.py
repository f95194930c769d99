"""Whose process the steps run in: one of their own, as in a pod and below `distillery run`, or that of a host, such as a notebook.

In a process of its own a step listens to signals, configures logging and draws a bar. A host does all this as it likes: there a step
leaves it alone, and tells whoever called how far it is.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgressEvent:
    """How far a step is.

    Attributes:
        step: its name, such as `train_student`.
        stage: what it does at the moment, in a few words.
        done: finished rounds, epochs or images, of `total`.
        total: how many there will be.
        numbers: of the round or epoch that has just ended, such as its loss terms; empty within one.
    """

    step: str
    stage: str
    done: int
    total: int
    numbers: Mapping[str, float] = field(default_factory=dict)


Watcher = Callable[[ProgressEvent], None]
"""Told of each round, epoch or batch; what it raises ends the step, which goes on from its last checkpoint when it is called again."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher | None:
    """Whom the host has named to be told; None in a process of the step's own."""
    return _watcher.get()


@contextmanager
def hosted(watch: Watcher) -> Iterator[None]:
    """Run steps within the block as guests of this process.

    Args:
        watch: is told how far they are.
    """
    token = _watcher.set(watch)
    try:
        yield
    finally:
        _watcher.reset(token)
