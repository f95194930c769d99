"""Publication of a set whose result is decided: the same one again and again, and never over another."""

import pytest

from distillery.data.manifest import MANIFEST, SetManifest
from distillery.data.publishing import publish_manifest
from distillery.data.store import SyntheticSet
from distillery.errors import StoreError
from distillery.provenance import sha256_bytes
from distillery.storage import MemoryStore
from sets import write


def test_it_may_be_repeated_and_gives_exactly_that_set() -> None:
    store = MemoryStore()
    manifest = write(store, 2).manifest()
    assert store.list() == [entry.key for entry in sorted(write(store, 2).entries, key=lambda entry: entry.key)], "nobody sees a set yet"
    for _ in range(2):
        reference = publish_manifest(store, manifest)
        assert (reference.uri, reference.sha256) == (store.uri, sha256_bytes(manifest))
    assert SyntheticSet(store).digest == sha256_bytes(manifest)


def test_another_set_is_never_written_over() -> None:
    store = MemoryStore()
    first, second = (write(store, 2, name=name).manifest() for name in ("one", "two"))
    assert first != second
    publish_manifest(store, first)
    with pytest.raises(
        StoreError, match=f"set {sha256_bytes(second)[:12]} cannot be published at .* {sha256_bytes(first)[:12]} is: delete"
    ):
        publish_manifest(store, second)
    assert store.read(MANIFEST) == first
    store.delete(MANIFEST)
    publish_manifest(store, second)
    SyntheticSet(store).verify()


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("damage", ["gone", "half", "flipped"])
def test_a_set_with_half_a_shard_is_not_published(damage: str, published: bool) -> None:
    store = MemoryStore().below("sets/abc")
    manifest = write(store, 2).manifest()
    if published:
        publish_manifest(store, manifest)
    key = SetManifest.from_bytes(manifest, "here").shards[0].key
    if damage == "gone":
        store.delete(key)
    else:
        data = store.read(key)
        store.write(key, data[:-1] + (b"" if damage == "half" else bytes([data[-1] ^ 1])))
    sentence = f"The shard '{key}' is not whole in .*sets/abc': to make the set again, delete the folders named abc"
    with pytest.raises(StoreError, match=sentence):
        publish_manifest(store, manifest)
    assert store.exists(MANIFEST) == published
