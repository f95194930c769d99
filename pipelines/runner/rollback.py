"""A run that fails on its inputs leaves the store as it was: its records go, unless they lead to work."""

from contextlib import suppress

from distillery.errors import DistilleryError
from distillery.storage import Store
from distillery.workbench.openings import has_added


class Rollback:
    """What a run has left in a store since this was made.

    Args:
        store: the run's.
        run: its id; one that is resumed has records already.
    """

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store, run
        root = store.local_path("runs")
        self._kept = [path for path in (root, root.parent) if path.is_dir()] if root else []
        self._resumed = bool(store.list(f"runs/{run}"))

    def undo(self) -> bool:
        """Delete the run's records where they lead to no work of it; False where they stay: work, a resumed run, or a store gone silent."""
        try:
            if self._resumed or has_added(self._store, self._run):
                return False
            for key in self._store.list(f"runs/{self._run}"):
                self._store.delete(key)
        except DistilleryError:  # what made the run fail may be the store
            return False
        folder = self._store.local_path(f"runs/{self._run}")
        if folder is not None:
            below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
            for path in (*below, folder, folder.parent, folder.parent.parent):
                with suppress(OSError):
                    if path not in self._kept:
                        path.rmdir()
        return True
