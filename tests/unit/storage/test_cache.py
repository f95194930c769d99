"""The read cache: bounded, shared, never trusted without its hash."""

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.storage import MemoryStore
from distillery.storage.cache import ReadCache, read_cached, shared_cache


class Far(MemoryStore):
    """A store across a network, which counts what crosses it."""

    remote = True

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    return tmp_path / "cache"


def item(number: int, size: int = 1000) -> bytes:
    return str(number).encode().ljust(size, b".")


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(store: Far, data: bytes) -> bytes:
    def check(found: bytes) -> None:
        if found != data:
            raise StoreError("other bytes")

    return read_cached(store, name(data), name(data), check)


def far(*items: bytes) -> Far:
    store = Far()
    for data in items:
        store.write(name(data), data)
    return store


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_read_is_not_read_again(folder: Path) -> None:
    store = far(item(1))
    assert [fetch(store, item(1)) for _ in range(3)] == [item(1)] * 3
    assert store.reads == [name(item(1))]
    assert [path.name for path in folder.iterdir()] == [name(item(1))]


def test_a_damaged_copy_is_fetched_again_and_mended(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = far(item(1))
    fetch(store, item(1))
    for damage in (b"", item(1)[:-1], b"x" + item(1)[1:]):
        (folder / name(item(1))).write_bytes(damage)
        assert fetch(store, item(1)) == item(1)
        assert (folder / name(item(1))).read_bytes() == item(1)
    assert len(store.reads) == 4
    assert caplog.text.count("is damaged and is fetched again") == 3


def test_a_damaged_original_is_an_error_and_is_not_kept(folder: Path) -> None:
    store = far(item(1))
    store.write(name(item(1)), b"other")
    with pytest.raises(StoreError, match="other bytes"):
        fetch(store, item(1))
    with pytest.raises(MissingResourceError):
        fetch(store, item(2))
    assert not folder.exists()


def test_the_longest_unread_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_CACHE_BYTES", "3500")
    store = far(*map(item, range(5)))
    for number in range(3):
        fetch(store, item(number))
        old = time.time() - 100 + number
        os.utime(folder / name(item(number)), (old, old))
    fetch(store, item(0))  # read again: 1 is now the oldest
    fetch(store, item(3))
    assert {path.name for path in folder.iterdir()} == {name(item(number)) for number in (0, 2, 3)}
    fetch(store, item(4))
    assert size_of(folder) <= 3500


def test_it_stays_below_its_limit_with_many_readers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_CACHE_BYTES", "5000")
    items = [item(number) for number in range(40)]
    store = far(*items)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: fetch(store, data), items * 3)) == items * 3
    assert 0 < size_of(folder) <= 5000


READER = """
import hashlib, sys
from pathlib import Path
from distillery.storage.cache import ReadCache
cache, items = ReadCache(Path(sys.argv[1]), 20_000), [str(number).encode().ljust(1000, b".") for number in range(40)]
def check(data):
    assert data in items
for turn in range(30):
    for data in items:
        name = hashlib.sha256(data).hexdigest()
        found = cache.get(name, check)
        assert found in (None, data)
        if found is None:
            cache.put(name, data)
"""


def test_processes_share_it(folder: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", READER, str(folder)], stderr=subprocess.PIPE) for _ in range(3)]
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert ended == [(b"", 0)] * 3
    assert 0 < size_of(folder) <= 20_000 + 2 * 1000
    assert all(len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in folder.iterdir())


def test_what_killed_processes_left_goes_and_foreign_files_stay(folder: Path) -> None:
    folder.mkdir()
    for leftover in (".tmp-old", ".tmp-young", "README"):
        (folder / leftover).write_bytes(b"1")
    os.utime(folder / ".tmp-old", (1, 1))
    os.utime(folder / "README", (1, 1))
    ReadCache(folder, 10).put(name(item(1, 10)), item(1, 10))
    assert {path.name for path in folder.iterdir()} == {".tmp-young", "README", name(item(1, 10))}


@pytest.mark.parametrize("limit", ["0", "999"])
def test_what_does_not_fit_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("DISTILLERY_CACHE_BYTES", limit)
    store = far(item(1))
    assert fetch(store, item(1)) == fetch(store, item(1)) == item(1)
    assert len(store.reads) == 2
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_fails_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a regular file")
    assert fetch(far(item(1)), item(1)) == item(1)
    assert "keeps nothing" in caplog.text


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "8GiB"])
def test_a_limit_is_a_whole_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DISTILLERY_CACHE_BYTES", value)
    with pytest.raises(ConfigError, match="DISTILLERY_CACHE_BYTES = .* give a whole number of bytes"):
        shared_cache()
