"""A bar for a command that works in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """Draw a bar on stderr while the block runs, where that is a terminal.

    Yields:
        Takes the stage, how much of it is done, and all of it.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("start", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)
