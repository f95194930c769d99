"""A failed run's records go only where nothing hangs on them."""

from pathlib import Path

import pytest

from distillery.errors import StoreError
from distillery.storage import FolderStore
from distillery.workbench.openings import Work, mark_opened
from distillery_kfp.pipelines.runner.rollback import Rollback


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    store.write("checkpoints/a/b/latest.json", b"old")
    return store


def test_records_without_work_go_with_their_folders(store: FolderStore) -> None:
    rollback = Rollback(store, "r1")
    store.write("runs/r1/run.json", b"{}")
    mark_opened(store, "r1", Work("a", "b"))
    mark_opened(store, "r1", Work("a", "c"))
    assert rollback.undo()
    assert store.list() == ["checkpoints/a/b/latest.json"]
    assert not (store.root / "runs").exists()


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_store_stays_where_it_was_one_before(made: bool, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    if made:
        store.root.mkdir()
    rollback = Rollback(store, "r1")
    store.write("runs/r1/run.json", b"{}")
    assert rollback.undo()
    assert store.root.exists() == made
    assert list(tmp_path.rglob("*")) == [store.root][:made]


@pytest.mark.parametrize("key", ["checkpoints/a/b/result.json", "checkpoints/a/c/latest.json", "sets/c/shards/s"])
def test_records_that_lead_to_work_stay(store: FolderStore, key: str) -> None:
    rollback = Rollback(store, "r1")
    store.write("runs/r1/run.json", b"{}")
    mark_opened(store, "r1", Work("a", "b"))
    mark_opened(store, "r1", Work("a", "c"))
    store.write(key, b"new")
    assert not rollback.undo()
    assert store.exists("runs/r1/run.json")


def test_what_other_runs_have_made_is_never_listed(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    original = store.list
    monkeypatch.setattr(store, "list", lambda prefix="": (listed.append(prefix), original(prefix))[1])
    rollback = Rollback(store, "r1")
    mark_opened(store, "r1", Work("a", "c"))
    store.write("checkpoints/x/y/latest.json", b"another run's")
    assert rollback.undo()
    assert set(listed) == {"runs/r1", "runs/r1/opened", "checkpoints/a/c", "sets/c"}


def test_a_resumed_run_keeps_its_record(store: FolderStore) -> None:
    store.write("runs/r1/run.json", b"{}")
    assert not Rollback(store, "r1").undo()
    assert store.exists("runs/r1/run.json")


def test_a_store_gone_silent_loses_nothing(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rollback = Rollback(store, "r1")
    store.write("runs/r1/run.json", b"{}")

    def fail(prefix: str = "") -> list[str]:
        raise StoreError("silent")

    monkeypatch.setattr(store, "list", fail)
    assert not rollback.undo()
    assert store.exists("runs/r1/run.json")
