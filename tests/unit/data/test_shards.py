"""One shard: what goes in comes out, equal work gives equal bytes, damage is named."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import distillery
from distillery.data.shards import Shard, ShardEntry, add_up, describe_shard, has_shard, pack_shard, read_shard
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.provenance import Provenance
from distillery.seeding import stream
from distillery.storage import MemoryStore

ORIGIN = Provenance(inputs={"teacher": "ab", "synthesizer": "cd"}, config={"size": 3, "a": [1.5, "x"]}, seeds={"run": 1}, code_version="c")


def a_shard(n: int = 5, classes: int = 4, seed: int = 0) -> Shard:
    generator = stream(seed)
    images = torch.randint(0, 256, (n, 2, 3, 4), generator=generator).to(torch.uint8)
    return Shard(images, torch.randint(-1, classes, (n,), generator=generator), torch.randn(n, classes, generator=generator))


def stored(shard: Shard) -> tuple[MemoryStore, ShardEntry, bytes]:
    data = pack_shard(shard, ORIGIN)
    entry = describe_shard(shard, data, "train")
    store = MemoryStore()
    store.write(entry.key, data)
    return store, entry, data


@given(n=st.integers(1, 9), classes=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_round_trip_and_counts(n: int, classes: int, seed: int) -> None:
    shard = a_shard(n, classes, seed)
    store, entry, data = stored(shard)
    for before, after in zip(shard, read_shard(store, entry), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    obtained = [max(range(classes), key=row.__getitem__) for row in shard.teacher_logits.tolist()]
    asked = shard.asked.tolist()
    assert entry.counts == tuple((k, obtained.count(k)) for k in range(classes) if k in obtained)
    assert entry.asked == tuple((k, asked.count(k)) for k in range(classes) if k in asked)
    assert entry.agreed == sum(a == b for a, b in zip(asked, obtained, strict=True))
    assert (entry.images, entry.bytes) == (n, len(data))
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert entry.key == f"shards/{entry.sha256}.safetensors"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_are_stored_and_counted_as_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 1.0 + 1e-12], [0.0, 2.0]], dtype=torch.float64).to(dtype).requires_grad_()
    shard = a_shard(2, 2)._replace(teacher_logits=logits)
    store, entry, _ = stored(shard)
    found = read_shard(store, entry)
    assert found.teacher_logits.dtype == torch.float32
    assert add_up([entry.counts], 2) == tuple(torch.bincount(found.teacher_logits.argmax(1), minlength=2).tolist())


def test_memory_order_does_not_change_the_bytes() -> None:
    shard = a_shard()
    other = Shard(shard.images.to(memory_format=torch.channels_last), shard.asked, shard.teacher_logits.t().contiguous().t())
    assert pack_shard(other, ORIGIN) == pack_shard(shard, ORIGIN)


def test_provenance_and_format_stand_in_the_file() -> None:
    data = pack_shard(a_shard(), ORIGIN)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(metadata["distillery"]) == {"format": "distillery-shard", "version": 1, "provenance": ORIGIN.to_json()}


BYTES_ELSEWHERE = """
import hashlib, torch
from distillery.data.shards import Shard, pack_shard
from distillery.provenance import Provenance
shard = Shard(torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4), torch.tensor([1]), torch.tensor([[0.5, 1.5]]))
origin = Provenance(inputs={"b": "1", "a": "2"}, config={"d": 1, "c": 2}, seeds={}, code_version="x")
print(hashlib.sha256(pack_shard(shard, origin)).hexdigest())
"""


def test_bytes_are_equal_in_other_processes() -> None:
    source = str(Path(distillery.__file__).parents[1])
    hashes = {
        subprocess.run(
            [sys.executable, "-c", BYTES_ELSEWHERE],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": source, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    }
    # the format's own bytes: if this hash changes, raise the version of the format
    assert hashes == {"2d18d32868d30b9a229991c05fb4bfed536778d2d90c0e4046a48f6ed590d6b5\n"}


@pytest.mark.parametrize("place", [0, 7, 20, -1, -40])
def test_one_flipped_bit_is_an_error_that_names_the_shard(place: int) -> None:
    store, entry, data = stored(a_shard())
    damaged = bytearray(data)
    damaged[place] ^= 1
    store.write(entry.key, bytes(damaged))
    assert not has_shard(store, entry)
    with pytest.raises(StoreError, match=f"The shard '{entry.key}' .* is damaged") as caught:
        read_shard(store, entry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_another_length_is_an_error(change: object) -> None:
    store, entry, data = stored(a_shard())
    store.write(entry.key, change(data))  # type: ignore[operator]
    assert not has_shard(store, entry)
    with pytest.raises(StoreError, match="is damaged"):
        read_shard(store, entry)


def test_a_missing_shard_is_named() -> None:
    store, entry, _ = stored(a_shard())
    assert has_shard(store, entry)
    store.delete(entry.key)
    assert not has_shard(store, entry)
    with pytest.raises(MissingResourceError, match=f"The shard '{entry.key}' is missing"):
        read_shard(store, entry)


def rewritten(metadata: dict[str, str] | None, shard: Shard) -> tuple[MemoryStore, ShardEntry]:
    data = save(shard._asdict(), metadata)
    store, entry = MemoryStore(), describe_shard(shard, data, "train")
    store.write(entry.key, data)
    return store, entry


def test_a_newer_or_foreign_shard_is_refused() -> None:
    newer = json.dumps({"format": "distillery-shard", "version": 2})
    with pytest.raises(CheckpointMismatchError, match="distillery-shard version 2, but this Distillery reads up to version 1"):
        read_shard(*rewritten({"distillery": newer}, a_shard()))
    for metadata in (None, {"distillery": "1"}, {"distillery": "{"}, {"other": "x"}):
        with pytest.raises(CheckpointMismatchError, match="is not a distillery-shard file"):
            read_shard(*rewritten(metadata, a_shard()))


def test_a_shard_that_is_no_safetensors_file_is_refused() -> None:
    store, data = MemoryStore(), b"nothing of the kind"
    entry = describe_shard(a_shard(), data, "train")
    store.write(entry.key, data)
    with pytest.raises(StoreError, match="is damaged or no safetensors file"):
        read_shard(store, entry)


def test_a_shard_with_other_images_than_its_entry_is_refused() -> None:
    store, entry, _ = stored(a_shard())
    with pytest.raises(CheckpointMismatchError, match="does not hold the 6 images"):
        read_shard(store, entry.model_copy(update={"images": 6}))


def test_an_entry_survives_json_and_its_hash_cannot_lead_elsewhere() -> None:
    _, entry, _ = stored(a_shard())
    assert ShardEntry.parse(json.loads(json.dumps(entry.to_json()))) == entry
    with pytest.raises(ConfigError, match="sha256"):
        ShardEntry.parse({**entry.to_json(), "sha256": "../../etc/passwd"})
