"""Stores: whole objects or none, keys that stay inside, and refusals in one sentence."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import distillery
from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.storage import FolderStore, MemoryStore, Store, check_key, join_uri, open_store, read_uri, split_uri


@pytest.fixture(params=["folder", "memory", "s3", "s3 prefix", "folder below", "memory below", "s3 below"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if "s3" in request.param:
        bucket = request.getfixturevalue("bucket")
        whole = open_store(f"s3://{bucket}/some/prefix/" if "prefix" in request.param else f"s3://{bucket}")
    else:
        whole = FolderStore(tmp_path / "store") if "folder" in request.param else MemoryStore()
    if "below" not in request.param:
        return whole
    whole.write("outside", b"never listed from below")
    whole.write("pa/other", b"a name that the prefix begins like")
    return whole.below("pa").below("part")


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_object_comes_back(store: Store) -> None:
    store.write("a/b/c.bin", b"\x00\xff")
    assert store.read("a/b/c.bin") == b"\x00\xff"
    assert store.size("a/b/c.bin") == 2
    assert store.exists("a/b/c.bin")
    assert store.below("a").below("b").read("c.bin") == b"\x00\xff"


def test_writing_twice_replaces(store: Store) -> None:
    for data in (b"one", b"one", b"other"):
        store.write("key", data)
        assert store.read("key") == data
    assert store.list() == ["key"]


def test_an_object_is_streamed_and_known_by_its_hash(store: Store) -> None:
    data = bytes(range(256)) * 5000
    digest = hashlib.sha256(data).hexdigest()
    assert not store.holds("key", len(data), digest)
    store.write("key", data)
    assert b"".join(store.stream("key")) == data
    assert store.holds("key", len(data), digest)
    assert not store.holds("key", len(data) - 1, digest)
    assert not store.holds("key", len(data), hashlib.sha256(b"other").hexdigest())
    with pytest.raises(MissingResourceError, match="There is no 'absent'"):
        list(store.stream("absent"))


def test_only_the_first_creates(store: Store) -> None:
    assert store.create("a/key", b"first")
    assert not store.create("a/key", b"second")
    assert store.read("a/key") == b"first"


def test_of_many_creators_at_once_one_succeeds(store: Store) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create("key", f"writer {number}".encode())

    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(create, range(8)))
    assert wrote.count(True) == 1
    assert store.read("key") == f"writer {wrote.index(True)}".encode()
    assert store.list() == ["key"]


def test_sizes_are_listed_with_their_keys(store: Store) -> None:
    for key, size in (("b/x", 3), ("a", 0), ("b/y/z", 7), ("bc", 1)):
        store.write(key, b"1" * size)
    assert store.sizes() == {"a": 0, "b/x": 3, "b/y/z": 7, "bc": 1}
    assert store.sizes("b") == {"b/x": 3, "b/y/z": 7}
    assert store.sizes("c") == {}


def test_list_is_sorted_recursive_and_by_folder(store: Store) -> None:
    assert store.list() == []
    for key in ("b", "a/2", "a/1/x", "ab/3"):
        store.write(key, b"")
    assert store.list() == ["a/1/x", "a/2", "ab/3", "b"]
    assert store.list("a") == ["a/1/x", "a/2"]
    assert store.list("nothing") == []
    assert store.list("b") == []
    assert store.below("a").list() == ["1/x", "2"]


def test_delete_may_be_repeated(store: Store) -> None:
    store.write("a/key", b"1")
    store.delete("a/key")
    store.delete("a/key")
    store.delete("a/never/there")
    assert not store.exists("a/key")
    assert store.list() == []


@pytest.mark.parametrize("verb", ["read", "size"])
@pytest.mark.parametrize("key", ["absent", "a", "a/file/below"])
def test_what_is_not_there_is_missing(store: Store, verb: str, key: str) -> None:
    store.write("a/file", b"1")
    with pytest.raises(MissingResourceError, match=f"There is no '{key}' in the store") as caught:
        getattr(store, verb)(key)
    assert "\n" not in str(caught.value)
    assert not store.exists(key)


BAD_KEYS = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b", ".tmp-1", "a/.tmp-1"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_stay_inside(store: Store, key: str) -> None:
    actions: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.write(key, b""),
        lambda: store.size(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.below(key),
        lambda: store.local_path(key),
        lambda: check_key(key),
        lambda: join_uri("base", key),
    ]
    for action in actions:
        with pytest.raises(ConfigError, match="is not allowed"):
            action()


def test_only_folders_have_local_paths(tmp_path: Path) -> None:
    assert FolderStore(tmp_path).local_path("a/b") == tmp_path / "a" / "b"
    assert MemoryStore().local_path("a/b") is None


def test_opening_and_reading_makes_no_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    assert not store.exists("a")
    assert store.list() == []
    assert store.clean() == 0
    assert tree(tmp_path) == []


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), KeyboardInterrupt(), SystemExit(143)])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    store = FolderStore(tmp_path)
    store.write("folder/key", b"old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(StoreError if isinstance(error, OSError) else type(error)):
            store.write("folder/key", b"new")
        with pytest.raises(StoreError if isinstance(error, OSError) else type(error)):
            store.write("folder/fresh", b"new")
    assert store.read("folder/key") == b"old"
    assert tree(tmp_path) == ["folder", "folder/key"]


KILLED = """
import os, signal, sys
from pathlib import Path
from distillery.storage import FolderStore
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
FolderStore(Path(sys.argv[1])).write("key", b"new")
"""


def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("key", b"old")
    environment = {"PYTHONPATH": str(Path(distillery.__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(tree(tmp_path)) == 2  # the leftover is there, or this test shows nothing
    assert store.list() == ["key"]
    assert store.read("key") == b"old"
    assert store.clean() == 1
    assert tree(tmp_path) == ["key"]


def test_file_and_folders_are_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("flush " + ("file" if ".tmp-" in path else os.path.relpath(path, tmp_path)))
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    FolderStore(tmp_path / "new").write("folder/key", b"1")
    assert sorted(events[:2]) == ["flush .", "flush new"]
    assert events[2:] == ["flush file", "rename", "flush new/folder"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_only_the_first_creates_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    store = FolderStore(tmp_path)
    assert store.create("key", b"first")
    assert not store.create("key", b"second")
    assert (store.read("key"), tree(tmp_path)) == (b"first", ["key"])


def test_others_may_read_what_we_write(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    before = os.umask(0o022)
    try:
        store.write("key", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("key", ["key", "deep/er/key"])
def test_a_store_below_a_regular_file_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_text("regular")
    for place in ("file", "file/store"):
        store = open_store(str(tmp_path / place))
        with pytest.raises(StoreError, match=r"file' is a regular file where a folder is needed; choose another store\.$") as caught:
            store.write(key, b"1")
        assert str(caught.value).count(". ") == 0
        assert store.list() == []
        assert not store.exists(key)
        store.delete(key)
    assert tree(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left for its 4 bytes; free some"),
        (errno.EDQUOT, "no space is left"),
        (errno.EACCES, "this user may not write there"),
        (errno.EROFS, "this user may not write there"),
        (errno.EIO, "Input/output error; choose a store"),
    ],
)
def test_refusals_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=words) as caught:
        FolderStore(tmp_path).write("a/key", b"1234")
    assert "\n" not in str(caught.value)
    assert FolderStore(tmp_path).list() == []


@pytest.mark.parametrize("verb", ["read", "size", "delete", "list"])
def test_a_store_that_cannot_be_read_is_no_missing_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("read_bytes", "stat", "unlink"):
        monkeypatch.setattr(Path, name, fail)
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(StoreError, match=r"Permission denied.*check its permissions"):
        getattr(FolderStore(tmp_path), verb)("key")


@pytest.mark.parametrize("uri", ["{}/a b", "file://{}/a%20b", "file://localhost{}/a%20b", "FILE://{}/a%20b"])
def test_uris_of_folders(tmp_path: Path, uri: str) -> None:
    store = open_store(uri.format(tmp_path))
    assert store.uri == f"{tmp_path}/a b"
    store.write("k", b"1")
    assert (tmp_path / "a b" / "k").read_bytes() == b"1"


def test_a_relative_path_is_fixed_when_the_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("store")
    monkeypatch.chdir("/")
    store.write("k", b"1")
    assert tree(tmp_path) == ["store", "store/k"]
    assert open_store(store.uri).read("k") == b"1"


@pytest.mark.parametrize(
    "uri", ["", "  ", "gs://b", "s3://", "s3:///x", "s3://b?/x", "s3://bucket/x?endpoint=y", "https://h/x", "file://host/x", "memory://"]
)
def test_uris_that_do_not_work_say_what_does(uri: str) -> None:
    with pytest.raises(ConfigError, match="give a|give one|give s3|give 3 to 63|for a local path") as caught:
        open_store(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("/a/b.npz", ("/a", "b.npz")),
        ("b.npz", (".", "b.npz")),
        ("/b.npz", ("/", "b.npz")),
        ("file:///a/b%20c", ("file:///a", "b c")),
        ("s3://b/k/x%20y", ("s3://b/k", "x%20y")),
        ("s3://b/x", ("s3://b", "x")),
    ],
)
def test_split_uri(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


@pytest.mark.parametrize("uri", ["", "/", "a/", "/a/..", "file://", "s3://bucket"])
def test_split_uri_needs_a_file(uri: str) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        split_uri(uri)


def test_read_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x y.npz").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    for uri in ("x y.npz", "./x y.npz", f"{tmp_path}/x y.npz", f"file://{tmp_path}/x%20y.npz"):
        assert read_uri(uri) == b"1"
    with pytest.raises(MissingResourceError):
        read_uri(f"{tmp_path}/absent")


def test_join_uri() -> None:
    assert join_uri("/a", "b", "c/d") == join_uri("/a/", "b", "c/d") == "/a/b/c/d"
    assert join_uri("s3://bucket", "x") == "s3://bucket/x"
    assert join_uri("/a") == "/a"
