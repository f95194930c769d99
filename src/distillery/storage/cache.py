"""A folder of this machine that keeps what was read over a network: bounded, shared by runs, never trusted without its hash."""

import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distillery.errors import ConfigError, StoreError
from distillery.storage.base import Store
from distillery.storage.local import TEMPORARY
from distillery.storage.workspace import workspace

_log = logging.getLogger(__name__)

DEFAULT_BYTES = 8 * 1024**3
_ABANDONED_SECONDS = 3600.0  # a process that takes longer over one object is gone
_NAME = re.compile(r"[0-9a-f]{64}")

_MAKING_ROOM = threading.Lock()  # of this process; each further process may be one object above the limit for a moment

Check = Callable[[bytes], None]
"""Raises StoreError where bytes are not what was promised."""


class ReadCache:
    """Objects by the sha256 of their bytes; the longest unread go first.

    Processes share the folder without locks: an object appears by a rename and may vanish at any time, and whoever does not find it
    fetches it. Where the folder cannot be written, nothing is kept and nothing fails.

    Args:
        folder: made when it is first needed.
        limit: bytes that may stay; 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_BYTES) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, sha256: str, check: Check) -> bytes | None:
        """The bytes under a hash, None where they are not kept; bytes that fail the check are dropped."""
        path = self.folder / sha256
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            check(data)
        except StoreError:
            _log.warning("The cached copy %s is damaged and is fetched again.", path)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # now, and from now on the youngest
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep bytes that passed their check, and make room for them."""
        if len(data) > self.limit:
            return
        temporary = self.folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with _MAKING_ROOM:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._shrink(self.limit - len(data))
                temporary.write_bytes(data)
                os.replace(temporary, self.folder / sha256)
        except OSError as error:
            _log.warning(
                "The read cache %s keeps nothing (%s): free some space, or set DISTILLERY_CACHE_BYTES.", self.folder, error.strerror
            )
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _shrink(self, limit: int) -> None:
        """Remove the longest unread objects until no more than `limit` bytes stay, and what killed processes left."""
        kept: list[tuple[float, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process makes room as well
                    about = entry.stat()
                    if _NAME.fullmatch(entry.name):
                        kept.append((about.st_mtime, about.st_size, entry.path))
                    elif entry.name.startswith(TEMPORARY) and time.time() - about.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= limit:
                return
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def shared_cache() -> ReadCache:
    """The cache in the workspace, with the limit that DISTILLERY_CACHE_BYTES sets.

    Raises:
        ConfigError: the limit is no whole number.
    """
    limit = os.environ.get("DISTILLERY_CACHE_BYTES") or str(DEFAULT_BYTES)
    if not limit.isdecimal():
        raise ConfigError(f"DISTILLERY_CACHE_BYTES = {limit!r} is not allowed: give a whole number of bytes, 0 for no cache.")
    return ReadCache(workspace() / "cache", int(limit))


def read_cached(store: Store, key: str, sha256: str, check: Check) -> bytes:
    """The bytes of an object whose hash is known; those of a remote store are kept in the workspace's cache.

    Args:
        store: where it lies.
        key: names it there.
        sha256: of its bytes.
        check: refuses other bytes, wherever they come from.

    Raises:
        MissingResourceError: there is no such object.
        StoreError: its bytes fail the check, or the store cannot be read.
        ConfigError: a limit of the cache that cannot be.
    """
    cache = shared_cache() if store.remote else ReadCache(Path(), 0)
    if cache.limit and (found := cache.get(sha256, check)) is not None:
        return found
    data = b"".join(store.stream(key))
    check(data)
    if cache.limit:
        cache.put(sha256, data)
    return data
