"""A store in a folder."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillery.errors import MissingResourceError, StoreError
from distillery.storage.base import TEMPORARY, Store, check_key


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

    def write(self, key: str, data: bytes) -> None:
        """Write one object atomically: a temporary file beside it, flushed to the disk, then renamed over it."""
        path = self._path(key)
        try:
            _make_folder(path.parent)
            _write_beside(path, data)
        except OSError as error:
            raise StoreError(self._refusal(key, len(data), error)) from None

    def create(self, key: str, data: bytes) -> bool:
        """Write one object unless one is there: a link to the flushed temporary file, which fails where the name is taken."""
        path = self._path(key)
        try:
            _make_folder(path.parent)
            return _write_beside(path, data, replace=False)
        except OSError as error:
            raise StoreError(self._refusal(key, len(data), error)) from None

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

    def _refusal(self, key: str, size: int, error: OSError) -> str:
        start = f"Cannot write {key!r} to the store {self.uri!r}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{start}: no space is left for its {size} bytes; free some, or choose another store."
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            return f"{start}: {str(_obstacle(self._path(key)))!r} is a regular file where a folder is needed; choose another store."
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{start}: this user may not write there ({error.strerror}); grant write permission, or choose another store."
        return f"{start}: {error.strerror or error}; choose a store that can be written."


def _make_folder(folder: Path) -> None:
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        _flush_folder(part.parent)


def _write_beside(path: Path, data: bytes, replace: bool = True) -> bool:
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        elif not _link(temporary, path):
            return False
    finally:  # SystemExit as well: SIGTERM must leave nothing behind
        with suppress(OSError):
            temporary.unlink()
    _flush_folder(path.parent)
    return True


def _link(temporary: Path, path: Path) -> bool:
    """Give the file its name unless that is taken; a file system without links has only the look before the leap."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush files only
            raise
    finally:
        os.close(descriptor)


def _obstacle(path: Path) -> Path:
    """The outermost parent that is a regular file, else the path itself."""
    return next((part for part in reversed(path.parents) if part.is_file()), path)


def _raise(error: OSError) -> None:
    raise error
