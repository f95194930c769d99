"""A run that fails on its inputs leaves the store as it was: its records go, unless it has added work that they lead to."""

from contextlib import suppress

from distillery.errors import DistilleryError
from distillery.storage import Store


def work_in(store: Store) -> frozenset[str]:
    """Keys of all work in a store, checkpoints and sets; of none where it cannot be listed."""
    with suppress(DistilleryError):  # whoever needs the store says what is wrong with it
        return frozenset([*store.list("checkpoints"), *store.list("sets")])
    return frozenset()


def withdraw(store: Store, run: str) -> None:
    """Delete every record of a run, and the folders that are empty then."""
    with suppress(DistilleryError):
        for key in store.list(f"runs/{run}"):
            store.delete(key)
    folder = store.local_path(f"runs/{run}")
    if folder is None:
        return
    below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, folder, folder.parent, folder.parent.parent):
        with suppress(OSError):
            path.rmdir()
