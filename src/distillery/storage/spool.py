"""Objects that are larger than memory should hold: written into a local file first, hashed on the way, and then given to a store."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distillery.errors import StoreError
from distillery.storage.base import Store
from distillery.storage.local import TEMPORARY, refusal

_ABANDONED_SECONDS = 3600.0  # an unfinished file that grew no more for so long has lost its writer


class Spool:
    """A file to write into from front to end.

    A full disk does not raise within `write`: who writes is foreign code that would wrap the error, or raise another one as it closes its
    file. `finish` tells.

    Attributes:
        path: where the bytes lie.
        size: bytes so far.
    """

    def __init__(self, store: Store, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = 0
        self._store = store
        self._file = file
        self._digest = hashlib.sha256()
        self._failed: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        count = len(data) if isinstance(data, bytes) else data.nbytes
        self.size += count
        self._digest.update(data)
        if self._failed is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._failed = error
        return count

    def flush(self) -> None:
        """Nothing to do before the end."""

    def finish(self) -> str:
        """The sha256 of all bytes, which are on the disk now.

        Raises:
            StoreError: they did not fit, or could not be written.
        """
        if self._failed is None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed = error
        if self._failed is not None:
            raise _refused(self._store, self.path, self._failed, self.size) from None
        return self._digest.hexdigest()


@contextmanager
def spool(store: Store) -> Iterator[Spool]:
    """A file of its own for an object of a store, in the folder from which `Store.write_file` takes it with the least work.

    What is not moved away is gone in the end; what killed writers left goes when the next one comes.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = store.spool_folder
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        file = path.open("xb")
    except OSError as error:
        raise _refused(store, path, error) from None
    try:
        yield Spool(store, path, file)
    finally:  # SystemExit as well: SIGTERM must leave nothing behind
        with suppress(OSError):  # what did not fit is tried once more as the file closes; `finish` has told
            file.close()
        with suppress(OSError):
            path.unlink()


def _sweep(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _refused(store: Store, path: Path, error: OSError, size: int = 0) -> StoreError:
    inside = store.local_path("any") is not None
    start = f"Cannot write to the store {store.uri!r}" if inside else f"Cannot write {str(path)!r} for the store {store.uri!r}"
    return StoreError(refusal(start, path, error, size, "store" if inside else "workspace"))
