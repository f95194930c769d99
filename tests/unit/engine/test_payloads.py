"""Payloads of checkpoints: the bytes of torch.save under their hash, written and read without a second copy of the state."""

import hashlib
import io
from pathlib import Path

import pytest
import torch

from distillery.engine.checkpoint import Checkpoints
from distillery.engine.payloads import read_payload, write_payload
from distillery.errors import StoreError
from distillery.storage import FolderStore, MemoryStore, Store

STATE = {"weights": torch.arange(300_000.0).reshape(30, 10, 100, 10).contiguous(memory_format=torch.channels_last), "round": 3}


class Narrow(FolderStore):
    """Refuses what is not small, as memory would refuse ten gigabytes."""

    def read(self, key: str) -> bytes:
        assert self.size(key) < 10_000, f"{key} came whole"
        return super().read(key)

    def write(self, key: str, data: bytes) -> None:
        assert len(data) < 10_000, f"{key} went whole"
        super().write(key, data)


@pytest.fixture(params=["folder", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return FolderStore(tmp_path / "store") if request.param == "folder" else MemoryStore()


def test_a_payload_is_what_torch_saves_under_its_hash(store: Store) -> None:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    made = write_payload(store, STATE)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    assert (made.key, made.sha256, made.size) == (f"payloads/{sha256}.pt", sha256, len(buffer.getvalue()))
    assert store.read(made.key) == buffer.getvalue()
    assert write_payload(store, STATE) == made
    assert store.list() == [made.key]


def test_a_checkpoint_passes_through_no_bytes_in_memory(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Narrow(tmp_path))
    for number in (1, 2):
        checkpoints.save(number, {**STATE, "round": number})
    found = Checkpoints(Narrow(tmp_path)).load()
    assert found is not None
    assert found[0] == found[1]["round"] == 2
    assert torch.equal(found[1]["weights"], STATE["weights"])  # type: ignore[arg-type]


def test_a_state_outlives_its_file_and_does_not_write_into_it(store: Store) -> None:
    made = write_payload(store, STATE)
    first, second = (read_payload(store, made.key, made.sha256) for _ in range(2))
    first["weights"].zero_()
    assert torch.equal(second["weights"], STATE["weights"])  # type: ignore[arg-type]
    assert second["weights"].stride() == STATE["weights"].stride()  # type: ignore[attr-defined]
    third = read_payload(store, made.key, made.sha256)
    store.delete(made.key)
    assert torch.equal(third["weights"], STATE["weights"])  # type: ignore[arg-type]


def test_damage_is_found_before_anything_is_read(store: Store) -> None:
    made = write_payload(store, STATE)
    data = bytearray(store.read(made.key))
    data[len(data) // 2] ^= 1
    store.write(made.key, bytes(data))
    with pytest.raises(StoreError, match="does not match its sha256"):
        read_payload(store, made.key, made.sha256)
    store.write("payloads/other", b"no file of torch")
    with pytest.raises(StoreError, match="cannot be read"):
        read_payload(store, "payloads/other", hashlib.sha256(b"no file of torch").hexdigest())
    store.delete(made.key)
    with pytest.raises(StoreError, match="is missing"):
        read_payload(store, made.key, made.sha256)
