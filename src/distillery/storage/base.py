"""What every store promises: whole objects under keys, or none."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from distillery.errors import ConfigError, MissingResourceError

TEMPORARY = ".tmp-"
"""Begins the name of a writer's unfinished file, which is never listed and never a key."""


class Store(ABC):
    """Objects under keys.

    A key is a relative posix path such as `shards/ab12.safetensors`. An object appears whole or not at all, and replacing one is as
    atomic as writing it; nothing else is promised, because few object stores promise more: no locks, no conditional writes, no
    empty folders.

    Attributes:
        uri: opens the store again.
        remote: its bytes cross a network, so that reading them twice is worth avoiding.
    """

    uri: str
    remote: bool = False

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            MissingResourceError: there is no such object.
            StoreError: the store cannot be read.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write one object atomically and durably, replacing what was there.

        Raises:
            StoreError: the store cannot be written; what was under the key before is still there.
        """

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of an object, without reading it.

        Raises:
            MissingResourceError: there is no such object.
            StoreError: the store cannot be read.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects below the folder `prefix`, at any depth; "" is the whole store. Unfinished writes are not listed."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    @abstractmethod
    def below(self, prefix: str) -> "Store":
        """The part of this store below the folder `prefix`, as a store of its own."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(key)
        except MissingResourceError:
            return False
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, in parts.

        Raises:
            MissingResourceError: there is no such object.
            StoreError: the store cannot be read.
        """
        yield self.read(key)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of all objects below the folder `prefix`, by key."""
        return {key: self.size(key) for key in self.list(prefix)}

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object of this size and hash is there; the size is asked first, because it is cheap."""
        return self.exists(key) and self.size(key) == size and hashlib.sha256(self.read(key)).hexdigest() == sha256

    def create(self, key: str, data: bytes) -> bool:
        """Write one object unless one is there, and say whether this call wrote it; of several callers at once one succeeds.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.exists(key):
            return False
        self.write(key, data)
        return True

    def local_path(self, key: str) -> Path | None:
        """Where the object lies (or would lie) on this machine, None where the store is not a folder."""
        check_key(key)
        return None

    def clean(self) -> int:
        """Remove what killed writers left unfinished, and say how many; only for a caller that is the sole writer (it holds the lock)."""
        return 0


def check_key(key: str) -> str:
    """Return a key that stays inside its store.

    Raises:
        ConfigError: an empty or absolute key, one with `..`, `.` or empty parts, or one that is reserved for unfinished writes.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts) or "\0" in key:
        raise ConfigError(f"The key {key!r} is not allowed: use a relative path such as 'shards/0001', without '..' or empty parts.")
    return key
