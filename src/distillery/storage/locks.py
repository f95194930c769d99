"""One worker per key: a lock that a dead process never keeps."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillery.errors import StoreError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold `path` exclusively during the block; wait for another holder, saying who it is.

    The kernel drops the lock with its process, so a killed step leaves none behind. The file itself stays: removing it would let two
    processes hold two files of one name.

    Args:
        path: lock file in the workspace, made where missing.
        what: what is being locked, for the message.

    Raises:
        StoreError: the lock file cannot be written.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, what)
        with _told(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold `path` exclusively during the block if nobody else does; gives whether that worked.

    Args:
        path: lock file in the workspace, made where missing.

    Raises:
        StoreError: the lock file cannot be written.
    """
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def holder(path: Path) -> int:
    """The process that holds `path`, 0 where nobody does; nothing is made or changed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who only ask do not meet
    except BlockingIOError:
        said = path.read_text(errors="replace").strip()
        return int(said) if said.isdecimal() else -1
    finally:
        os.close(descriptor)
    return 0


def _open(path: Path) -> int:
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"Cannot write the lock file {str(path)!r} ({error.strerror}): choose another workspace.") from None


def _acquire(descriptor: int, path: Path, what: str) -> None:
    announced = ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = path.read_text(errors="replace").strip() or "unknown"
            if holder != announced:
                logger.warning("%s is being worked on by process %s: waiting until it ends.", what, holder)
                announced = holder
            time.sleep(_POLL_SECONDS)
