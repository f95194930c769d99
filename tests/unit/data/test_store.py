"""Synthetic sets: invisible until published, verified when read, equal for equal work."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import distillery
from distillery.data.manifest import MANIFEST, SetHeader, SetManifest
from distillery.data.shards import Role, Shard, ShardEntry, add_up
from distillery.data.store import SetWriter, SyntheticSet, split_holdout
from distillery.documents import seal
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.provenance import Provenance
from distillery.seeding import stream
from distillery.storage import FolderStore, MemoryStore, Store
from sets import publish_set

HEADER = SetHeader(
    shape=(1, 2, 2),
    num_classes=3,
    teacher_sha256="7eac" * 16,
    synthesizer_sha256="5e7a" * 16,
    provenance=Provenance(inputs={"teacher": "7eac" * 16}, config={"size": 6}, seeds={"run": 0}, code_version="c"),
)


def part(number: int, n: int = 3) -> Shard:
    """A shard whose pixels all carry its number; asked and obtained labels differ in the first image."""
    images = torch.full((n, 1, 2, 2), number, dtype=torch.uint8)
    obtained = torch.arange(number, number + n) % 3
    asked = obtained.clone()
    asked[0] = (asked[0] + 1) % 3
    return Shard(images, asked, torch.nn.functional.one_hot(obtained, 3) * 4.0)


PLAN: tuple[tuple[int, Role], ...] = ((0, "train"), (1, "holdout"), (2, "train"))


def write(store: Store, plan: tuple[tuple[int, Role], ...] = PLAN, header: SetHeader = HEADER) -> SetWriter:
    writer = SetWriter(store, header)
    for number, role in plan:
        writer.append(*part(number), role)
    return writer


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "set")


def pixels(shard: Shard) -> list[int]:
    return shard.images[:, 0, 0, 0].tolist()


def test_a_published_set_comes_back(store: FolderStore) -> None:
    reference = publish_set(write(store), shortfall=[0, 2, 0])
    found = SyntheticSet.open(reference.uri, HEADER.teacher_sha256)
    manifest = found.manifest
    assert found.digest == reference.sha256
    assert (manifest.images, manifest.holdout, manifest.agreed) == (6, 3, 4)
    assert manifest.counts == (2, 2, 2)
    assert manifest.asked == (2, 3, 1)
    assert manifest.shortfall == (0, 2, 0)
    assert {name: getattr(manifest, name) for name in SetHeader.model_fields} == dict(HEADER)
    images, asked, logits = found.load("train")
    assert torch.equal(images, torch.cat([part(0).images, part(2).images]))
    assert torch.equal(asked, torch.cat([part(0).asked, part(2).asked]))
    assert torch.equal(logits, torch.cat([part(0).teacher_logits, part(2).teacher_logits]))
    found.verify()


def test_the_holdout_is_never_in_the_train_role(store: FolderStore) -> None:
    found = SyntheticSet.open(publish_set(write(store)).uri)
    assert pixels(found.load()) == [0] * 3 + [2] * 3
    assert pixels(found.load("holdout")) == [1] * 3
    assert {entry.role for entry in found.entries("train")} == {"train"}
    assert sum(len(shard.images) for shard in found.shards("train")) == found.manifest.images


def test_a_role_without_images_is_empty(store: FolderStore) -> None:
    found = SyntheticSet.open(publish_set(write(store, ((0, "train"),))).uri)
    images, asked, logits = found.load("holdout")
    assert (tuple(images.shape), tuple(asked.shape), tuple(logits.shape)) == ((0, 1, 2, 2), (0,), (0, 3))
    assert (images.dtype, asked.dtype, logits.dtype) == (torch.uint8, torch.int64, torch.float32)


def test_images_without_a_class_are_marked(store: FolderStore) -> None:
    writer = SetWriter(store, HEADER)
    shard = part(0)
    writer.append(shard.images, None, shard.teacher_logits)
    found = SyntheticSet.open(publish_set(writer).uri)
    assert found.load().asked.tolist() == [-1] * 3
    assert (found.manifest.asked, found.manifest.agreed) == ((0, 0, 0), 0)


def test_no_set_before_its_manifest(store: FolderStore) -> None:
    write(store)
    with pytest.raises(MissingResourceError, match="No synthetic set is published at"):
        SyntheticSet.open(store.uri)


def test_the_manifest_is_written_last(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("write", "create"):
        original = getattr(FolderStore, name)

        def watch(self: FolderStore, key: str, data: bytes, original: Any = original) -> Any:
            written.append(key)
            return original(self, key, data)

        monkeypatch.setattr(FolderStore, name, watch)
    writer = write(store)
    publish_set(writer)
    assert written == [entry.key for entry in writer.entries] + [MANIFEST]


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_nothing_is_published_while_a_shard_is_not_whole(store: FolderStore, damage: str) -> None:
    writer = write(store)
    key = writer.entries[1].key
    if damage == "missing":
        store.delete(key)
    else:
        store.write(key, store.read(key)[:-1])
    with pytest.raises(StoreError, match=f"The shard '{key}' is not whole"):
        publish_set(writer)
    assert not store.exists(MANIFEST)


def test_a_crash_while_publishing_publishes_nothing(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write(store)

    def crash(*_: object) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", crash)
        with pytest.raises(SystemExit):
            publish_set(writer)
    with pytest.raises(MissingResourceError):
        SyntheticSet.open(store.uri)
    assert SyntheticSet.open(publish_set(writer).uri).manifest.images == 6


def test_equal_work_gives_equal_bytes_wherever_it_is_done(tmp_path: Path) -> None:
    first, second = FolderStore(tmp_path / "a"), FolderStore(tmp_path / "b" / "c")
    assert publish_set(write(first)).sha256 == publish_set(write(second)).sha256
    assert first.list() == second.list()
    assert all(first.read(key) == second.read(key) for key in first.list())
    assert str(tmp_path).encode() not in first.read(MANIFEST)


def test_a_resumed_writer_ends_as_one_left_alone(tmp_path: Path) -> None:
    whole, torn = FolderStore(tmp_path / "whole"), FolderStore(tmp_path / "torn")
    expected = publish_set(write(whole))
    checkpoint = [entry.to_json() for entry in write(torn, PLAN[:1]).entries]
    write(torn, PLAN[:2])  # one shard more than the checkpoint knows, then killed
    resumed = SetWriter(torn, HEADER, [ShardEntry.parse(entry) for entry in checkpoint])
    for number, role in PLAN[1:]:
        resumed.append(*part(number), role)
    assert publish_set(resumed).sha256 == expected.sha256
    assert torn.list() == whole.list()


def test_append_writes_a_shard_once(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = write(store, PLAN[:1]).entries[0]
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", lambda *_: pytest.fail("what is there was written again"))
        assert write(store, PLAN[:1]).entries == (entry,)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_append_mends_a_damaged_shard(store: FolderStore, change: object) -> None:
    entry = write(store, PLAN[:1]).entries[0]
    good = store.read(entry.key)
    store.write(entry.key, change(good))  # type: ignore[operator]
    write(store, PLAN[:1])
    assert store.read(entry.key) == good


def test_a_set_of_another_teacher_is_refused(store: FolderStore) -> None:
    publish_set(write(store))
    with pytest.raises(CheckpointMismatchError, match="made with the teacher 7eac7eac7eac, not with ffffffffffff"):
        SyntheticSet(store, "ffff" * 16)


@pytest.mark.parametrize("role", ["train", "holdout"])
def test_damage_stops_whoever_reads_it(store: FolderStore, role: Role) -> None:
    found = SyntheticSet.open(publish_set(write(store)).uri)
    entry = found.entries(role)[-1]
    data = bytearray(store.read(entry.key))
    data[-5] ^= 16
    store.write(entry.key, bytes(data))
    for action in (lambda: found.load(role), lambda: list(found.shards(role)), found.verify):
        with pytest.raises(StoreError, match=entry.key):
            action()
    store.delete(entry.key)
    for action in (lambda: found.load(role), found.verify):
        with pytest.raises(MissingResourceError, match=entry.key):
            action()


def edited(store: Store, **changes: object) -> None:
    store.write(MANIFEST, seal({**json.loads(store.read(MANIFEST)), **changes}))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"version": 5}, CheckpointMismatchError, "distillery-set version 5, but this Distillery reads up to version 4: upgrade"),
        ({"format": "distillery-bundle"}, CheckpointMismatchError, "is not a distillery-set file"),
        ({"images": 7}, StoreError, "is damaged"),
        ({"counts": [2, 2, 3]}, StoreError, "is damaged"),
        ({"num_classes": 4}, StoreError, "is damaged"),
        ({"extra": 1}, StoreError, "is damaged"),
        ({"config_sha256": "0" * 64}, StoreError, "is damaged .its fields contradict each other"),
        ({"provenance": HEADER.provenance.to_json() | {"config": {"size": 7}}}, StoreError, "is damaged .its fields contradict each other"),
        ({"shards": []}, StoreError, "is damaged"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(store: FolderStore, changes: dict[str, object], kind: type[Exception], words: str) -> None:
    publish_set(write(store))
    edited(store, **changes)
    with pytest.raises(kind, match=words) as caught:
        SyntheticSet.open(store.uri)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_half_a_manifest_is_refused(store: FolderStore) -> None:
    publish_set(write(store))
    store.write(MANIFEST, store.read(MANIFEST)[:100])
    with pytest.raises(StoreError, match="The manifest of the set .* is not a JSON object"):
        SyntheticSet.open(store.uri)


def test_verify_compares_counts_with_the_images() -> None:
    store = MemoryStore()
    publish_set(write(store))
    document = json.loads(store.read(MANIFEST))
    shard = document["shards"][0]
    shard["agreed"] += 1
    edited(store, shards=document["shards"], agreed=document["agreed"] + 1)
    with pytest.raises(StoreError, match=f"{shard['sha256']}.* is not what the manifest"):
        SyntheticSet(store).verify()


def test_another_teacher_is_refused(store: FolderStore) -> None:
    uri = publish_set(write(store)).uri
    with pytest.raises(CheckpointMismatchError, match="not with 123"):
        SyntheticSet.open(uri, "123")


def test_the_manifest_survives_its_file() -> None:
    store = MemoryStore()
    publish_set(write(store))
    data = store.read(MANIFEST)
    manifest = SetManifest.from_bytes(data, "here")
    assert manifest.to_bytes() == data
    assert manifest.sha256 == hashlib.sha256(data).hexdigest() == SetManifest.parse(manifest.to_json()).sha256
    document = json.loads(data)
    assert (document["format"], document["version"]) == ("distillery-set", 4)
    assert document["provenance"] == HEADER.provenance.to_json()
    assert document["config_sha256"] == hashlib.sha256(b'{"size":6}').hexdigest()


def test_wrong_tensors_are_our_own_bug(store: FolderStore) -> None:
    shard = part(0)
    writer = SetWriter(store, HEADER)
    for bad in (
        shard._replace(images=shard.images.float()),
        shard._replace(images=shard.images[..., :1]),
        shard._replace(asked=shard.asked[:2]),
        shard._replace(asked=shard.asked.int()),
        shard._replace(teacher_logits=shard.teacher_logits[:, :2]),
    ):
        with pytest.raises(AssertionError):
            writer.append(*bad)
    assert store.list() == []


def test_an_unwritable_store_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("regular")
    with pytest.raises(StoreError, match="is a regular file"):
        write(FolderStore(tmp_path / "file" / "set"))


ELSEWHERE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_store import write
from sets import publish_set
from distillery.storage import FolderStore
print(publish_set(write(FolderStore(Path(sys.argv[1])))).sha256)
"""


def test_the_digest_is_equal_in_another_process(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(distillery.__file__).parents[1]), "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "other"), str(Path(__file__).parent), str(Path(__file__).parents[2])]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == publish_set(write(FolderStore(tmp_path / "here"))).sha256


@given(n=st.integers(0, 300), share=st.floats(0, 0.99), seed=st.integers(0, 50))
def test_holdout_is_a_share(n: int, share: float, seed: int) -> None:
    mask = split_holdout(n, share, stream(seed))
    assert (mask.dtype, len(mask)) == (torch.bool, n)
    assert abs(int(mask.sum()) - n * share) <= 1
    assert n == 0 or not mask.all()
    assert torch.equal(mask, split_holdout(n, share, stream(seed)))


def test_holdout_of_whole_shares_is_exact_and_of_small_rounds_right_on_average() -> None:
    generator = stream(0)
    assert {int(split_holdout(1000, 0.05, generator).sum()) for _ in range(20)} == {50}
    assert 20 < sum(int(split_holdout(8, 0.05, generator).sum()) for _ in range(100)) < 60
    places = sum(split_holdout(10, 0.5, generator).int() for _ in range(200))
    assert isinstance(places, torch.Tensor)
    assert 60 < places.min() < places.max() < 140


@pytest.mark.parametrize("share", [-0.1, 1.0, 5, float("nan")])
def test_holdout_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match="holdout = .* is not allowed"):
        split_holdout(10, share, stream(0))


def test_a_set_that_counts_every_class_of_every_shard_is_read_as_before() -> None:
    store = MemoryStore()
    publish_set(write(store))
    now = SyntheticSet(store).manifest
    document = json.loads(store.read(MANIFEST))
    for entry in document["shards"]:
        for name in ("counts", "asked"):
            entry[name] = list(add_up([entry[name]], 3))
    store.write(MANIFEST, seal({**document, "version": 2}))
    found = SyntheticSet(store)
    assert found.manifest.shards == now.shards
    assert found.manifest.counts == (2, 2, 2)
    assert found.manifest.sha256 == found.digest != now.sha256


@pytest.mark.parametrize("counts", [[[0, 2], [3, 1]], [[1, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 0]], [[-1, 2]], [[0]], [0, "x"]])
def test_counts_of_no_class_or_twice_are_damage(counts: object) -> None:
    store = MemoryStore()
    publish_set(write(store))
    document = json.loads(store.read(MANIFEST))
    document["shards"][0]["counts"] = counts
    edited(store, shards=document["shards"])
    with pytest.raises(StoreError, match="is damaged"):
        SyntheticSet(store)
