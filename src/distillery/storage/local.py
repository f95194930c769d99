"""Files of this machine written whole and durably, and what is said where they cannot be."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from distillery.errors import StoreError

TEMPORARY = ".tmp-"
"""Begins the name of a writer's unfinished file, which is never listed and never a key."""

CHUNK_BYTES = 1024**2
"""Of files that are read in parts."""


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in parts."""
    with path.open("rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part


def checked(path: Path, sha256: str) -> Iterator[bytes]:
    """The bytes of a file, in parts.

    Raises:
        StoreError: once all have come, where they have another hash: somebody writes into the file.
    """
    changed = f"The file {str(path)!r} was changed while it was written to a store: let nobody write into it, and try again."
    yield from _hashed(chunks(path), sha256, StoreError(changed))


def receive(parts: Iterable[bytes], path: Path, sha256: str) -> bool:
    """Write a file whole, or not at all.

    Args:
        parts: its bytes, in order.
        path: what was there is replaced.
        sha256: that all bytes together must have.

    Returns:
        Whether they have it; else the file is not touched.

    Raises:
        StoreError: the file cannot be written.
    """
    other = StoreError(f"The bytes for {str(path)!r} do not match their sha256.")
    try:
        make_folder(path.parent)
        return write_beside(path, _hashed(parts, sha256, other))
    except OSError as error:
        raise StoreError(refusal(f"Cannot write {str(path)!r}", path, error, place="folder")) from None
    except StoreError as error:
        if error is not other:
            raise
        return False


def _hashed(parts: Iterable[bytes], sha256: str, other: StoreError) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        yield part
    if digest.hexdigest() != sha256:
        raise other


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, each flushed to the disk."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        flush(part.parent)


def write_beside(path: Path, parts: Iterable[bytes], replace: bool = True) -> bool:
    """Write a temporary file beside the path, flushed to the disk, and then give it its name.

    Args:
        path: in a folder that is there.
        parts: the bytes, in order; what they raise leaves everything as it was.
        replace: what has that name already.

    Returns:
        Whether this call gave the name.
    """
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        elif not _link(temporary, path):
            return False
    finally:  # SystemExit as well: SIGTERM must leave nothing behind
        with suppress(OSError):
            temporary.unlink()
    flush(path.parent)
    return True


def move(path: Path, target: Path) -> bool:
    """Give a file another name, flushed to the disk; False where that is on another file system, and nothing has happened."""
    flush(path, os.O_RDONLY)
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    flush(target.parent)
    return True


def flush(path: Path, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> None:
    """Have a folder on the disk; or, with other flags to open it, a file."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush files only
            raise
    finally:
        os.close(descriptor)


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or would be made."""
    nearest = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    return shutil.disk_usage(nearest).free


def refusal(start: str, path: Path, error: OSError, size: int = 0, place: str = "store") -> str:
    """The sentence for a file that cannot be written.

    Args:
        start: of the sentence: what cannot be written, and where.
        path: of the file.
        error: why.
        size: bytes that it would have; 0 where that is not known.
        place: what else could be chosen.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{start}: no space is left{f' for its {size} bytes' if size else ''}; free some, or choose another {place}."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{start}: {str(_obstacle(path))!r} is a regular file where a folder is needed; choose another {place}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{start}: this user may not write there ({error.strerror}); grant write permission, or choose another {place}."
    return f"{start}: {error.strerror or error}; choose a {place} that can be written."


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


def _obstacle(path: Path) -> Path:
    """The outermost parent that is a regular file, else the path itself."""
    return next((part for part in reversed(path.parents) if part.is_file()), path)
