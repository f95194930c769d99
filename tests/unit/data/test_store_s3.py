"""Sets, bundles and checkpoints in a bucket: resumed without sending twice, published once, read through the cache."""

import threading
from pathlib import Path

import pytest
import torch

from distillery.data.reference import SetReference, open_reference, write_reference
from distillery.data.store import SetWriter, SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.errors import MissingResourceError, StoreError
from distillery.models.bundle import fetch_bundle, load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.storage import FolderStore, MemoryStore, open_store, read_uri
from distillery.storage.s3 import S3Store, make_client
from distillery.types import Classifier, ImageSpec
from s3_requests import counting
from sets import publish, publish_set, shard, write


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Store:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    return S3Store(bucket, "sets/one")


def test_an_interrupted_set_is_none_and_is_resumed_without_sending_a_shard_twice(store: S3Store) -> None:
    sent = write(store, 3).entries
    with pytest.raises(MissingResourceError, match="No synthetic set is published at 's3://"):
        SyntheticSet.open(store.uri)
    with counting() as seen:
        writer = write(store, 5)
    assert seen["PutObject"] == 2
    assert seen["GetObject"] == 0  # nothing is read of a shard that is there
    reference = publish_set(writer)
    found = SyntheticSet.open(reference.uri)
    assert found.manifest.shards[:3] == sent
    found.verify()


def test_a_damaged_shard_is_sent_again(store: S3Store) -> None:
    entry = write(store, 1).entries[0]
    data = bytearray(store.read(entry.key))
    data[-1] ^= 1
    make_client().put_object(Bucket=store.bucket, Key=f"sets/one/{entry.key}", Body=bytes(data))
    assert publish(store, 1)
    SyntheticSet(store).verify()


def test_two_writers_at_once_publish_one_set_and_the_later_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2)
    create = S3Store.create

    def together(self: S3Store, key: str, data: bytes) -> bool:
        barrier.wait()
        return create(self, key, data)

    monkeypatch.setattr(S3Store, "create", together)
    writers = [write(store, 2, name=name) for name in ("one", "other")]
    found: list[SetReference] = []
    refused: list[str] = []

    def work(writer: SetWriter) -> None:
        try:
            found.append(publish_set(writer))
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (reference,), (sentence,) = found, refused
    assert "cannot be published at" in sentence
    whole = SyntheticSet(store)
    whole.verify()
    assert whole.digest == reference.sha256
    named = {entry.key for entry in whole.manifest.shards}
    assert named in [{entry.key for entry in writer.entries} for writer in writers]


def test_an_equal_set_is_published_once(store: S3Store) -> None:
    first = publish(store, 2)
    with counting() as seen:
        assert publish(store, 2) == first
    assert seen["PutObject"] == 0


def test_a_set_is_read_through_the_cache_and_verified_past_it(store: S3Store, tmp_path: Path) -> None:
    reference = publish(store, 3)
    write_reference(tmp_path / "artifact", reference)
    with counting() as seen:
        first = open_reference(tmp_path / "artifact").load()
    assert seen["GetObject"] == 1 + 3
    with counting() as seen:
        again = open_reference(tmp_path / "artifact").load()
    assert seen["GetObject"] == 1
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(first.images[:4], shard(0).images)
    store.delete(SyntheticSet(store).manifest.shards[1].key)
    with pytest.raises(MissingResourceError, match="is missing from the set 's3://"):
        SyntheticSet(store).verify()


def test_folders_and_memory_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    for kept in (FolderStore(tmp_path / "set"), MemoryStore()):
        publish(kept, 1)
        SyntheticSet(kept).load()
    assert not (tmp_path / "work").exists()


def test_the_same_set_has_the_same_digest_in_every_store(store: S3Store, tmp_path: Path) -> None:
    assert publish(store, 2).sha256 == publish(FolderStore(tmp_path), 2).sha256 == publish(MemoryStore(), 2).sha256


def test_a_bundle_comes_from_a_bucket(store: S3Store, tmp_path: Path) -> None:
    architecture, spec = Architecture(name="lenet5"), ImageSpec(channels=1, height=32, width=32, mean=(0.3,), std=(0.3,))
    classifier = Classifier(build_network(architecture, spec, 2), spec, ("a", "b"))
    digest = save_classifier(tmp_path / "bundle", classifier, architecture, Provenance(code_version="c"))
    for path in (tmp_path / "bundle").iterdir():
        store.write(path.name, path.read_bytes())
    fetched = fetch_bundle(store.uri, tmp_path / "bundles")
    assert fetched == tmp_path / "bundles" / digest
    assert load_classifier(fetched, digest).class_names == ("a", "b")
    assert read_uri(f"{store.uri}/bundle.json") == (tmp_path / "bundle" / "bundle.json").read_bytes()


def test_checkpoints_lie_in_a_bucket(store: S3Store) -> None:
    checkpoints = Checkpoints(store)
    checkpoints.save(1, {"a": torch.ones(3)})
    store.write("payloads/another-machine's", b"")
    checkpoints.save(2, {"a": torch.zeros(3)})
    found = Checkpoints(open_store(store.uri)).load()
    assert found is not None
    assert found[0] == 2
    assert torch.equal(found[1]["a"], torch.zeros(3))
    assert len(store.list("payloads")) == 2  # another machine's is not ours to drop
    checkpoints.finish({"x": 1})
    assert store.list() == ["result.json"]
    assert checkpoints.finished() == {"x": 1}
