"""A set that begins with another one: its shards are verified, named, and counted apart."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.reference import write_reference
from distillery.data.start import StartSet
from distillery.data.store import SetWriter, SyntheticSet
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.provenance import Provenance
from distillery.storage import FolderStore, MemoryStore, Store
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=1, height=2, width=2, mean=(0.0,), std=(1.0,))
TEACHER = "a" * 64


def writer_on(store: Store, **changes: Any) -> SetWriter:
    fields = {"shape": SPEC.shape, "num_classes": 3, "teacher_sha256": TEACHER, "provenance": Provenance(code_version="test"), **changes}
    return SetWriter(store, SetHeader(**fields))


def made_at(store: Store, train: tuple[int, ...] = (5, 4), held_out: int = 2) -> str:
    writer, draws = writer_on(store), torch.Generator().manual_seed(1)
    for role, count in (*(("train", count) for count in train), *([("holdout", held_out)] if held_out else [])):
        images = torch.randint(256, (count, *SPEC.shape), dtype=torch.uint8, generator=draws)
        writer.append(images, None, torch.rand(count, 3, generator=draws), role)
    return publish_manifest(store, writer.manifest()).sha256


def test_shards_become_the_first_ones_without_a_byte_copied(tmp_path: Path) -> None:
    old, new = FolderStore(tmp_path / "sets/old"), FolderStore(tmp_path / "sets/new")
    digest = made_at(old)
    start = StartSet.open(old.uri, TEACHER, SPEC, digest)
    writer = writer_on(new, start_sha256=start.digest, start_images=start.images)
    shards = start.begin(writer)
    writer.append(torch.zeros(3, *SPEC.shape, dtype=torch.uint8), None, torch.ones(3, 3))
    made = SyntheticSet.open(publish_manifest(new, writer.manifest()).uri, TEACHER)
    assert (made.manifest.images, made.manifest.holdout, made.manifest.start_images, made.manifest.start_sha256) == (12, 2, 9, digest)
    assert [entry.sha256 for entry in made.manifest.shards[:3]] == [entry.sha256 for entry in start.found.manifest.shards]
    assert torch.equal(made.load("train").images[:9], start.found.load("train").images)
    assert torch.equal(made.load("holdout").images, shards[2].images)
    key = made.manifest.shards[0].key
    assert os.path.samefile(old.local_path(key), new.local_path(key))
    old.delete(key)
    made.verify()


def test_another_store_gets_a_copy(tmp_path: Path) -> None:
    old, new = FolderStore(tmp_path / "old"), MemoryStore()
    made_at(old)
    StartSet.open(old.uri, TEACHER, SPEC).begin(writer := writer_on(new))
    assert len(new.list("shards")) == 3
    publish_manifest(new, writer.manifest())


def test_a_step_that_is_repeated_takes_the_shards_once_more_and_heals_a_damaged_one(tmp_path: Path) -> None:
    old, new = FolderStore(tmp_path / "old"), FolderStore(tmp_path / "new")
    made_at(old)
    start = StartSet.open(old.uri, TEACHER, SPEC)
    start.begin(writer_on(new))
    key = start.found.manifest.shards[0].key
    new.write(key, b"damaged")
    start.begin(writer := writer_on(new))
    assert new.read(key) == old.read(key) != b"damaged"
    publish_manifest(new, writer.manifest())


def test_a_steps_reference_is_a_set_too(tmp_path: Path) -> None:
    old = FolderStore(tmp_path / "old")
    made_at(old)
    write_reference(tmp_path / "out", publish_manifest(old, SyntheticSet.open(old.uri).store.read("manifest.json")))
    assert StartSet.open(str(tmp_path / "out"), TEACHER, SPEC).images == 9


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"teacher": "b" * 64}, CheckpointMismatchError, "made with the teacher aaaaaaaaaaaa, not with bbbbbbbbbbbb"),
        ({"pinned": "c" * 64}, CheckpointMismatchError, "and was cccccccccccc when the run was planned: plan it again"),
        (
            {"spec": SPEC.model_copy(update={"height": 4})},
            ConfigError,
            r"has images of shape \[1, 2, 2\], but the teacher takes \[1, 4, 2\]",
        ),
        ({"uri": "nowhere"}, MissingResourceError, "No synthetic set is published at"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    made_at(FolderStore(tmp_path / "old"))
    given = {"uri": "old", "teacher": TEACHER, "spec": SPEC, "pinned": "", **changes}
    with pytest.raises(error, match=said):
        StartSet.open(str(tmp_path / given["uri"]), given["teacher"], given["spec"], given["pinned"])


def test_one_without_images_to_train_on_is_refused(tmp_path: Path) -> None:
    made_at(FolderStore(tmp_path / "old"), train=())
    with pytest.raises(ConfigError, match="has no images to train on: materialize a larger one"):
        StartSet.open(str(tmp_path / "old"), TEACHER, SPEC)


def test_a_damaged_shard_is_not_taken(tmp_path: Path) -> None:
    old = FolderStore(tmp_path / "old")
    made_at(old)
    key = old.list("shards")[1]
    old.write(key, old.read(key)[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        StartSet.open(old.uri, TEACHER, SPEC).begin(writer_on(FolderStore(tmp_path / "new")))
