"""Checkpoints: whole at any moment, verified when read, gone when the work is finished."""

import json
import logging
from pathlib import Path

import pytest
import torch

from distillery.engine.checkpoint import Checkpoints
from distillery.errors import CheckpointMismatchError, StoreError
from distillery.storage import FolderStore


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
    for name in ("write", "delete"):
        original = getattr(FolderStore, name)
        monkeypatch.setattr(FolderStore, name, lambda self, key, *data, original=original: (done.append(key), original(self, key, *data)))
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
    checkpoints.store.write("latest.json", json.dumps({**pointer, "version": 2}).encode())
    with pytest.raises(CheckpointMismatchError, match="version 2"):
        checkpoints.load()


def test_another_thread_count_warns(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save(1, {})
    pointer = json.loads(checkpoints.store.read("latest.json"))
    checkpoints.store.write("latest.json", json.dumps({**pointer, "threads": 64}).encode())
    with caplog.at_level(logging.WARNING):
        checkpoints.load()
    assert "written with 64 threads" in caplog.text


def test_a_result_replaces_the_checkpoints(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"round": 1})
    checkpoints.finish({"metrics": {"a": 1.0}})
    assert checkpoints.finished() == {"metrics": {"a": 1.0}}
    assert checkpoints.store.list() == ["result.json"]
