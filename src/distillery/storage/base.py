"""What every store promises: whole objects under keys, or none."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from distillery.errors import ConfigError, MissingResourceError
from distillery.storage.local import TEMPORARY, free_space, receive
from distillery.storage.workspace import workspace


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
    def write_file(self, key: str, path: Path, sha256: str, give: bool = False) -> None:
        """Write one object from a local file, atomically and durably; its bytes are never all in memory where the store is not.

        Args:
            key: of the object.
            path: of the file.
            sha256: of its bytes.
            give: the file may go, so that a folder takes it instead of copying it. See `spool` for a file that is made to be given.

        Raises:
            StoreError: the store cannot be written, or the file has other bytes than that hash is of; what was under the key before is
                still there.
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

    @property
    def spool_folder(self) -> Path:
        """A local folder for files that become objects of this store."""
        return workspace() / "spool"

    def read_file(self, key: str, path: Path, sha256: str) -> bool:
        """Copy an object into a local file, part by part.

        Args:
            key: of the object.
            path: of the file; what was there is replaced.
            sha256: that its bytes must have.

        Returns:
            Whether they have it; else the file is not touched.

        Raises:
            MissingResourceError: there is no such object.
            StoreError: the store cannot be read, or the file cannot be written.
        """
        return receive(self.stream(key), path, sha256)

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
        if not self.exists(key) or self.size(key) != size:
            return False
        digest = hashlib.sha256()
        for part in self.stream(key):
            digest.update(part)
        return digest.hexdigest() == sha256

    def create(self, key: str, data: bytes) -> bool:
        """Write one object unless one is there, and say whether this call wrote it; of several callers at once one succeeds.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.exists(key):
            return False
        self.write(key, data)
        return True

    def take(self, key: str, source: "Store") -> None:
        """Have an object under the same key as another store has it; an object is replaced, never changed, so two may share their bytes.

        Raises:
            MissingResourceError: the other store does not have it.
            StoreError: one of them fails.
        """
        self.write(key, source.read(key))

    def local_path(self, key: str) -> Path | None:
        """Where the object lies (or would lie) on this machine, None where the store is not a folder."""
        check_key(key)
        return None

    def free_space(self) -> int | None:
        """Bytes that are free in it, None where nobody can tell."""
        folder = self.local_path("free")
        return None if folder is None else free_space(folder.parent)

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
