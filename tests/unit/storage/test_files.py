"""Files into stores and out of them, and files that are made to become objects: never whole in memory, never half there."""

import errno
import hashlib
import os
import resource
import time
from pathlib import Path

import pytest
import torch

from distillery.errors import MissingResourceError, StoreError
from distillery.storage import FolderStore, MemoryStore, Store, open_store
from distillery.storage.s3 import PART_BYTES, S3Store, make_client
from distillery.storage.spool import Spool, spool

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    if request.param == "s3":
        return open_store(f"s3://{request.getfixturevalue('bucket')}/below")
    return FolderStore(tmp_path / "store") if request.param == "folder" else MemoryStore()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_a_file_comes_back(store: Store, file: Path, tmp_path: Path) -> None:
    store.write_file("a/key", file, SHA256)
    assert store.read("a/key") == DATA
    assert store.list() == ["a/key"]
    assert store.holds("a/key", len(DATA), SHA256)
    assert not store.holds("a/key", len(DATA), "0" * 64)
    assert file.read_bytes() == DATA
    assert store.read_file("a/key", tmp_path / "deep" / "copy", SHA256)
    assert (tmp_path / "deep" / "copy").read_bytes() == DATA


def test_a_file_of_other_bytes_than_were_hashed_is_refused(store: Store, file: Path) -> None:
    store.write("key", b"old")
    with pytest.raises(StoreError, match="was changed while it was written to a store"):
        store.write_file("key", file, "0" * 64)
    assert store.read("key") == b"old"
    assert store.list() == ["key"]


def test_damaged_bytes_are_told_and_touch_nothing(store: Store, tmp_path: Path) -> None:
    store.write("key", b"damaged")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    assert not store.read_file("key", target, SHA256)
    assert target.read_bytes() == b"old"
    with pytest.raises(MissingResourceError, match="There is no 'absent'"):
        store.read_file("absent", target, SHA256)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")) == []


def test_a_file_that_cannot_be_written_is_one_sentence(store: Store, tmp_path: Path) -> None:
    store.write("key", DATA)
    (tmp_path / "blocked").touch()
    with pytest.raises(StoreError, match="is a regular file where a folder is needed; choose another folder"):
        store.read_file("key", tmp_path / "blocked" / "target", SHA256)


def test_a_folder_takes_what_is_given_and_copies_what_is_lent(tmp_path: Path, file: Path) -> None:
    store, inode = FolderStore(tmp_path / "store"), file.stat().st_ino
    store.write_file("lent", file, SHA256)
    assert (store.root / "lent").stat().st_ino != inode
    store.write_file("given", file, SHA256, give=True)
    assert (store.root / "given").stat().st_ino == inode
    assert not file.exists()


def test_what_lies_on_another_file_system_is_copied(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def elsewhere(source: Path, target: Path) -> None:
        if source == file:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    monkeypatch.setattr(os, "replace", elsewhere)
    store = FolderStore(tmp_path / "store")
    store.write_file("key", file, SHA256, give=True)
    assert store.read("key") == DATA


@pytest.mark.parametrize("give", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), SystemExit(143)])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, give: bool
) -> None:
    store = FolderStore(tmp_path / "store")
    store.write("key", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError if isinstance(error, OSError) else SystemExit, match="no space is left for its 10240 bytes|143"):
        store.write_file("key", file, SHA256, give)
    assert [path.name for path in store.root.iterdir()] == ["key"]
    assert (store.read("key"), file.read_bytes()) == (b"old", DATA)


def test_a_large_file_goes_in_parts_and_comes_back(bucket: str, tmp_path: Path) -> None:
    store, data = S3Store(bucket), os.urandom(2 * PART_BYTES + 5)
    path, sha256 = tmp_path / "large", hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    store.write_file("key", path, sha256)
    about = make_client().head_object(Bucket=bucket, Key="key")
    assert about["ETag"].strip('"').endswith("-3")
    assert about["Metadata"] == {"sha256": sha256}
    assert store.holds("key", len(data), sha256)
    assert store.read_file("key", tmp_path / "back", sha256)
    assert (tmp_path / "back").read_bytes() == data


class Narrow(FolderStore):
    """Lets no more than `limit` bytes through memory at a time."""

    limit = 2**20

    def read(self, key: str) -> bytes:
        assert self.size(key) <= self.limit, f"{key} came whole"
        return super().read(key)

    def write(self, key: str, data: bytes) -> None:
        assert len(data) <= self.limit, f"{key} went whole"
        super().write(key, data)


def test_a_folder_hashes_and_streams_in_parts(tmp_path: Path, file: Path) -> None:
    store = Narrow(tmp_path / "store")
    store.limit = 100
    store.write_file("key", file, SHA256)
    assert store.holds("key", len(DATA), SHA256)
    assert store.read_file("key", tmp_path / "copy", SHA256)


def test_a_spooled_file_is_hashed_as_it_is_written(store: Store) -> None:
    with spool(store) as made:
        made.write(DATA[:100])
        made.write(memoryview(DATA[100:]))
        assert (made.finish(), made.size) == (SHA256, len(DATA))
        store.write_file("key", made.path, SHA256, give=True)
        folder = made.path.parent
    assert store.read("key") == DATA
    assert store.list() == ["key"]
    assert [path for path in folder.iterdir() if path.name.startswith(".tmp-")] == []


def test_who_is_stopped_leaves_no_spooled_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    making = spool(store)
    made = making.__enter__()
    made.write(DATA)
    assert made.path.exists()
    assert not making.__exit__(SystemExit, SystemExit(143), None)
    assert list(store.root.iterdir()) == []


def test_what_killed_writers_left_goes_and_what_grows_stays(tmp_path: Path) -> None:
    old, young, foreign = (tmp_path / name for name in (".tmp-old", ".tmp-young", "foreign"))
    for path in (old, young, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (time.time() - 4000,) * 2)
    with spool(FolderStore(tmp_path)):
        assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_a_full_disk_is_told_at_the_end_and_in_one_sentence(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with Path("/dev/full").open("wb", buffering=0) as full:
        made = Spool(store, tmp_path / ".tmp-it", full)  # type: ignore[arg-type]
        torch.save({"weights": torch.zeros(1000)}, made)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=f"Cannot write to the store .*: no space is left for its {made.size} bytes; free some"):
            made.finish()


def test_a_disk_that_is_full_before_the_last_bytes_is_told_as_the_file_closes_too(tmp_path: Path) -> None:
    def fill() -> None:
        with spool(FolderStore(tmp_path)) as made:
            made.write(b"x" * 2000)  # waits in a buffer for the end
            made.finish()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="Cannot write to the store .*: File too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regular").touch()
    monkeypatch.setattr(type(store), "spool_folder", tmp_path / "regular" / "spool")
    with pytest.raises(StoreError, match="regular' is a regular file where a folder is needed"), spool(store):
        pass
