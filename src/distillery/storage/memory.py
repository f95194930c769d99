"""A store in this process's memory."""

import tempfile
from pathlib import Path
from threading import Lock

from distillery.errors import MissingResourceError
from distillery.storage.base import Store, check_key
from distillery.storage.local import checked

_ONE_AT_A_TIME = Lock()


class MemoryStore(Store):
    """A store in this process's memory, for tests and experiments that should leave no files.

    Args:
        objects: where the bytes are kept, by key; shared by the stores `below` it.
        prefix: folder of this store inside `objects`.
    """

    def __init__(self, objects: dict[str, bytes] | None = None, prefix: str = "") -> None:
        self.objects = {} if objects is None else objects
        self.prefix = prefix
        self.uri = f"memory://{prefix}"

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        try:
            return self.objects[self._name(key)]
        except KeyError:
            raise MissingResourceError(f"There is no {key!r} in the store {self.uri!r}: write it first.") from None

    def write(self, key: str, data: bytes) -> None:
        """Keep the bytes under the key."""
        self.objects[self._name(key)] = bytes(data)

    def write_file(self, key: str, path: Path, sha256: str, give: bool = False) -> None:
        """Keep the bytes of a file under the key."""
        self.write(key, b"".join(checked(path, sha256)))

    @property
    def spool_folder(self) -> Path:
        """The system's folder for temporary files: nothing stays there."""
        return Path(tempfile.gettempdir(), "distillery")

    def create(self, key: str, data: bytes) -> bool:
        """Keep the bytes under the key unless it is taken."""
        with _ONE_AT_A_TIME:
            if self._name(key) in self.objects:
                return False
            self.write(key, data)
        return True

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return len(self.read(key))

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects below the folder `prefix`."""
        start = f"{self._name(prefix)}/" if prefix else f"{self.prefix}/" if self.prefix else ""
        skip = len(self.prefix) + 1 if self.prefix else 0
        return sorted(name[skip:] for name in self.objects if name.startswith(start))

    def delete(self, key: str) -> None:
        """Forget an object."""
        self.objects.pop(self._name(key), None)

    def below(self, prefix: str) -> "MemoryStore":
        """The part of this store below the folder `prefix`."""
        return MemoryStore(self.objects, self._name(prefix))

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)
