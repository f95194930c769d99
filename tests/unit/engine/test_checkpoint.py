"""Checkpoints: whole at any moment, verified when read, gone when the work is finished."""

import json
import logging
from pathlib import Path

import pytest
import torch

from distillery.documents import seal
from distillery.engine.checkpoint import Checkpoints
from distillery.errors import CheckpointMismatchError, StoreError
from distillery.storage import FolderStore, MemoryStore


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(FolderStore(tmp_path / "store"))


def test_state_comes_back_with_its_round(checkpoints: Checkpoints) -> None:
    weights = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    checkpoints.save(3, {"weights": weights, "steps": 7, "list": [1.5, "a", True]})
    found = checkpoints.load()
    assert found is not None
    done, state = found
    assert done == 3
    assert torch.equal(state["weights"], weights)
    assert state["weights"].stride() == weights.stride()
    assert (state["steps"], state["list"]) == (7, [1.5, "a", True])


def test_no_checkpoint_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    assert checkpoints.finished() is None


def test_payload_is_written_before_the_pointer_and_older_ones_go_last(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("write", "write_file", "delete"):
        original = getattr(FolderStore, name)
        monkeypatch.setattr(
            FolderStore, name, lambda self, key, *data, of=original, **more: (done.append(key), of(self, key, *data, **more))
        )
    checkpoints.save(1, {"round": 1})
    checkpoints.save(2, {"round": 2})
    first, second = done[0], done[2]
    assert done == [first, "latest.json", second, "latest.json", first]
    assert checkpoints.store.list("payloads") == [second]


def test_damaged_payload_is_an_error(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"round": 1})
    (key,) = checkpoints.store.list("payloads")
    data = bytearray(checkpoints.store.read(key))
    data[len(data) // 2] ^= 1
    checkpoints.store.write(key, bytes(data))
    with pytest.raises(StoreError, match="does not match its sha256"):
        checkpoints.load()
    checkpoints.store.delete(key)
    with pytest.raises(StoreError, match="is missing"):
        checkpoints.load()


def test_newer_version_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {})
    pointer = json.loads(checkpoints.store.read("latest.json"))
    checkpoints.store.write("latest.json", seal({**pointer, "version": 3}))
    with pytest.raises(CheckpointMismatchError, match="version 3"):
        checkpoints.load()


def test_another_thread_count_warns(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save(1, {})
    pointer = json.loads(checkpoints.store.read("latest.json"))
    checkpoints.store.write("latest.json", seal({**pointer, "threads": 64}))
    with caplog.at_level(logging.WARNING):
        checkpoints.load()
    assert "written with 64 threads" in caplog.text


def test_a_result_replaces_the_checkpoints(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"round": 1})
    checkpoints.finish({"metrics": {"a": 1.0}})
    assert checkpoints.finished() == {"metrics": {"a": 1.0}}
    assert checkpoints.store.list() == ["result.json"]


def test_the_first_result_stands(checkpoints: Checkpoints) -> None:
    assert checkpoints.finish({"metrics": {"a": 1.0}}) == {"metrics": {"a": 1.0}}
    late = Checkpoints(checkpoints.store)
    late.save(2, {"round": 2})
    assert late.finish({"metrics": {"a": 2.0}}) == {"metrics": {"a": 1.0}}
    assert checkpoints.finished() == {"metrics": {"a": 1.0}}
    assert checkpoints.store.list() == ["result.json"]


def test_a_payload_that_another_worker_dropped_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both compute the same: the slower one's pointer names what the faster one is about to drop."""
    store = MemoryStore()
    store.remote = True
    fast, slow = Checkpoints(store), Checkpoints(store)
    fast.save(1, {"round": 1})
    delete = MemoryStore.delete

    def and_then_the_slow_one_comes(self: MemoryStore, key: str) -> None:
        monkeypatch.setattr(MemoryStore, "delete", delete)
        slow.save(1, {"round": 1})
        delete(self, key)

    monkeypatch.setattr(MemoryStore, "delete", and_then_the_slow_one_comes)
    fast.save(2, {"round": 2})
    assert Checkpoints(store).load() == (2, {"round": 2})


def test_a_payload_that_goes_between_its_write_and_the_pointer_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    write = MemoryStore.write

    def and_the_payload_goes(self: MemoryStore, key: str, data: bytes) -> None:
        if key == "latest.json":
            monkeypatch.setattr(MemoryStore, "write", write)
            for payload in store.list("payloads"):
                store.delete(payload)
        write(self, key, data)

    monkeypatch.setattr(MemoryStore, "write", and_the_payload_goes)
    Checkpoints(store).save(1, {"round": 1})
    assert Checkpoints(store).load() == (1, {"round": 1})


@pytest.mark.parametrize("finished", [False, True])
def test_a_checkpoint_is_read_anew_where_another_worker_went_on(finished: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the pointer and its payload."""
    store = MemoryStore()
    other = Checkpoints(store)
    other.save(1, {"round": 1})
    read = MemoryStore.read

    def and_the_other_goes_on(self: MemoryStore, key: str) -> bytes:
        data = read(self, key)
        if key == "latest.json":
            monkeypatch.setattr(MemoryStore, "read", read)
            other.finish({"metrics": {}}) if finished else other.save(2, {"round": 2})
        return data

    monkeypatch.setattr(MemoryStore, "read", and_the_other_goes_on)
    assert Checkpoints(store).load() == (None if finished else (2, {"round": 2}))
