"""A store in a folder."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillery.errors import MissingResourceError, StoreError
from distillery.storage.base import Store, check_key
from distillery.storage.local import TEMPORARY, checked, chunks, flush, make_folder, move, refusal, write_beside


class FolderStore(Store):
    """A store in a folder, which is made by the first write.

    Args:
        root: the folder; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        with self._reading(key):
            return self._path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, in parts."""
        with self._reading(key):
            yield from chunks(self._path(key))

    def write(self, key: str, data: bytes) -> None:
        """Write one object atomically: a temporary file beside it, flushed to the disk, then renamed over it."""
        with self._writing(key, len(data)) as path:
            write_beside(path, (data,))

    def write_file(self, key: str, path: Path, sha256: str, give: bool = False) -> None:
        """Write one object from a file: one that is given away gets the object's name, any other is copied."""
        with self._writing(key, path.stat().st_size) as target:
            if not (give and move(path, target)):
                write_beside(target, checked(path, sha256))

    def create(self, key: str, data: bytes) -> bool:
        """Write one object unless one is there: a link to the flushed temporary file, which fails where the name is taken."""
        with self._writing(key, len(data)) as path:
            return write_beside(path, (data,), replace=False)

    @property
    def spool_folder(self) -> Path:
        """The store itself, so that a file is renamed into its place."""
        return self.root

    def take(self, key: str, source: Store) -> None:
        """As a second name of the other store's file, where that is possible; else a copy."""
        path, other = self._path(key), source.local_path(key)
        if other is not None:
            with suppress(OSError):  # another file system, one without links, or a name that is taken
                make_folder(path.parent)
                os.link(other, path)
                flush(path.parent)
                return
        super().take(key, source)

    def size(self, key: str) -> int:
        """Bytes of an object, without reading it."""
        with self._reading(key):
            path = self._path(key)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return path.stat().st_size

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects below the folder `prefix`."""
        return sorted(path.relative_to(self.root).as_posix() for path in self._files(prefix) if not path.name.startswith(TEMPORARY))

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._path(key).unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise StoreError(f"Cannot delete {key!r} from the store {self.uri!r} ({error.strerror}): check its permissions.") from None

    def below(self, prefix: str) -> "FolderStore":
        """The part of this store below the folder `prefix`."""
        return FolderStore(self._path(prefix))

    def local_path(self, key: str) -> Path:
        """Where the object lies, or would lie."""
        return self._path(key)

    def clean(self) -> int:
        """Remove the temporary files of killed writers."""
        leftovers = [path for path in self._files("") if path.name.startswith(TEMPORARY)]
        for path in leftovers:
            with suppress(OSError):
                path.unlink()
        return len(leftovers)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _files(self, prefix: str) -> Iterator[Path]:
        start = self._path(prefix) if prefix else self.root
        try:
            for folder, _, names in os.walk(start, onerror=_raise):
                yield from (Path(folder, name) for name in names)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(f"Cannot list the store {self.uri!r} ({error.strerror}): check its permissions.") from None

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingResourceError(f"There is no {key!r} in the store {self.uri!r}: check the URI, or write it first.") from None
        except OSError as error:
            raise StoreError(f"Cannot read {key!r} from the store {self.uri!r} ({error.strerror}): check its permissions.") from None

    @contextmanager
    def _writing(self, key: str, size: int) -> Iterator[Path]:
        path = self._path(key)
        try:
            make_folder(path.parent)
            yield path
        except OSError as error:
            raise StoreError(refusal(f"Cannot write {key!r} to the store {self.uri!r}", path, error, size)) from None


def _raise(error: OSError) -> None:
    raise error
