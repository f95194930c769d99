"""What the commands about a store's runs share."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from distillery.storage import Store

StoreOption = Annotated[str, typer.Option(help="Folder or s3:// URI that holds the runs.")]
WorkdirOption = Annotated[str, typer.Option(help="Local folder for logs and locks  \\[default: .distillery beside the store].")]
DEFAULT_STORE = "distillery-store"


def console() -> "Console":
    """A console that does not cut tables where nobody has given it a width."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def workdir_of(store: str, workdir: str) -> Path:
    """The workspace that belongs to a store."""
    folder = Path(store).expanduser().absolute() if "://" not in store else Path.cwd() / "store"
    return Path(workdir).expanduser().absolute() if workdir else folder.parent / ".distillery"


def open_existing(uri: str) -> "Store":
    """The store at a URI.

    Raises:
        MissingResourceError: a folder that is not there, rather than an empty list of runs.
    """
    from distillery.errors import MissingResourceError
    from distillery.storage import open_store

    store = open_store(uri)
    folder = store.local_path("runs")
    if folder is not None and not folder.parent.is_dir():
        raise MissingResourceError(f"There is no store at {uri!r}: give the --store that the run was given.")
    return store


def size(num_bytes: float) -> str:
    """Bytes as the page says them: `512 bytes`, `3.4 MB`."""
    from distillery.reporting.words import size as words_of

    return words_of(num_bytes).replace("\N{NO-BREAK SPACE}", " ")
