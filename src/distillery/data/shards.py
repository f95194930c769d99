"""One file of a synthetic set: uint8 images, the labels asked for, the teacher's logits, and where they come from."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from distillery.config import Config
from distillery.data.pool import NO_LABEL
from distillery.documents import Format
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import Store
from distillery.storage.cache import read_cached
from distillery.tensor_files import read_tensors, write_tensors

FORMAT = Format("distillery-shard", 1, "materialize the set again")
"""Holds no hash of itself: a shard is named by that of its bytes, and read only by who knows it."""
_SHA256 = r"^[0-9a-f]{64}$"

_LOGITS, _CLASSES = "teacher_logits", "teacher_classes"  # what a teacher answered, by the type of it

Role = Literal["train", "holdout"]

ClassCounts = tuple[tuple[int, int], ...]
"""(class, images) of every class that has images, in the order of the classes: no longer than there are images, of however many classes."""


class Shard(NamedTuple):
    """Images of a synthetic set.

    Attributes:
        images: (n, C, H, W) uint8.
        asked: (n,) int64, the class each image was asked for, -1 where none was.
        teacher_logits: (n, K) float32; of a segmenter its answers as a map of classes, (n, H, W) uint8.
    """

    images: Tensor
    asked: Tensor
    teacher_logits: Tensor


class ShardEntry(Config):
    """What a manifest says about a shard.

    Attributes:
        sha256: of the shard's bytes; it is also the shard's name.
        bytes: size of the shard.
        images: how many images it has.
        role: no student trains on `holdout`.
        counts: images by the teacher's argmax; sets of version 2 and before hold a number a class.
        asked: images by the class they were asked for; unlabelled ones are in none.
        agreed: images that the teacher puts in the class they were asked for.
    """

    sha256: str = Field(pattern=_SHA256)
    bytes: int = Field(ge=1)
    images: int = Field(ge=1)
    role: Role
    counts: ClassCounts
    asked: ClassCounts
    agreed: int = Field(ge=0)

    @field_validator("counts", "asked", mode="before")
    @classmethod
    def _of_classes_with_images(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and all(isinstance(count, int) for count in value):
            return tuple((index, count) for index, count in enumerate(value) if count)
        return value

    @property
    def key(self) -> str:
        """Where the shard lies below its set."""
        return f"shards/{self.sha256}.safetensors"


def pack_shard(shard: Shard, provenance: Provenance) -> bytes:
    """A shard's file; equal shards of equal provenance give equal bytes on every machine.

    Args:
        shard: images uint8, asked int64, teacher logits of any floating type, which are stored as float32.
        provenance: where the images come from.
    """
    tensors = {
        "images": shard.images.cpu().contiguous(),
        "asked": shard.asked.cpu().contiguous(),
    }
    answers = shard.teacher_logits.detach()
    if answers.is_floating_point():
        tensors[_LOGITS] = answers.float().cpu().contiguous()
    else:
        tensors[_CLASSES] = answers.cpu().contiguous()
    return write_tensors(FORMAT, provenance, {}, tensors)


def describe_shard(shard: Shard, data: bytes, role: Role) -> ShardEntry:
    """The manifest entry of a shard whose file is `data`."""
    return ShardEntry(sha256=sha256_bytes(data), bytes=len(data), role=role, **count_shard(shard))


def count_shard(shard: Shard) -> dict[str, Any]:
    """The fields of a shard's entry that count its images."""
    asked = shard.asked.cpu()
    images, obtained = classes_in(shard.teacher_logits)
    return {
        "images": len(shard.images),
        "counts": _count(obtained),
        "asked": _count(asked[asked != NO_LABEL]),
        "agreed": int((asked[images] == obtained).sum()),
    }


def classes_in(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Which classes images count for.

    Args:
        answers: of the teacher, as a shard holds them: logits (n, K) count for their argmax, a map (n, H, W) uint8 for each class in it.

    Returns:
        (M,) numbers of images, rising, and (M,) the class of each, both int64 on the CPU; no pair occurs twice.
    """
    answers = answers.cpu()
    if answers.is_floating_point():
        # float32 first: what is counted are the logits as they are stored
        return torch.arange(len(answers)), answers.float().argmax(1)
    present = torch.zeros(len(answers), 256, dtype=torch.bool).scatter_(1, answers.flatten(1).long(), True)
    images, classes = present.nonzero(as_tuple=True)
    return images, classes


def add_up(counts: Iterable[ClassCounts], num_classes: int) -> tuple[int, ...]:
    """Images of each class, one number a class, over several shards.

    Raises:
        ValueError: a class that there is not, one twice, or one without images.
    """
    totals = [0] * num_classes
    for one in counts:
        before = -1
        for index, count in one:
            if not before < index < num_classes or count < 1:
                raise ValueError(f"a shard counts {count} images of class {index}")
            totals[index] += count
            before = index
    return tuple(totals)


def has_shard(store: Store, entry: ShardEntry) -> bool:
    """Whether the shard is in the store, whole."""
    return store.holds(entry.key, entry.bytes, entry.sha256)


def check_whole(store: Store, entries: Sequence[ShardEntry]) -> None:
    """Refuse to publish, or to hand on, a set whose shards are not all there, byte for byte.

    Args:
        store: the store below the set's prefix, whose last part is the key of the work that makes the set.
        entries: what the set's manifest says.

    Raises:
        StoreError: names the shard.
    """
    for entry in entries:
        if not has_shard(store, entry):
            raise StoreError(
                f"The shard {entry.key!r} is not whole in {store.uri!r}: to make the set again, delete the folders named "
                f"{store.uri.rpartition('/')[2]} below sets and checkpoints, or give a new run_salt."
            )


def read_shard(store: Store, entry: ShardEntry, fresh: bool = False) -> Shard:
    """Read a shard and verify every byte of it; one of a remote store is kept in the workspace's read cache.

    Args:
        store: the store below the set's prefix.
        entry: what the manifest, or a checkpoint, says about the shard.
        fresh: read the store's own bytes, whatever the cache holds.

    Raises:
        MissingResourceError: the shard is not there.
        StoreError: its bytes do not have the size or the hash of the entry.
        CheckpointMismatchError: it is of a newer version than this code reads.
    """

    def check(data: bytes) -> None:
        if len(data) != entry.bytes or sha256_bytes(data) != entry.sha256:
            raise StoreError(
                f"The shard {entry.key!r} of the set {store.uri!r} is damaged ({len(data)} of {entry.bytes} bytes, or another hash): "
                "delete it and materialize the set again."
            )

    try:
        data = b"".join(store.stream(entry.key)) if fresh else read_cached(store, entry.key, entry.sha256, check)
    except MissingResourceError:
        raise MissingResourceError(f"The shard {entry.key!r} is missing from the set {store.uri!r}: materialize the set again.") from None
    if fresh:
        check(data)
    return _unpack(data, f"The shard {entry.key!r}", entry)


def sample_shards(store: Store, entries: Sequence[ShardEntry], limit: int, draws: torch.Generator) -> Shard:
    """At most `limit` images of the shards, chosen at random without replacement, in their order; one shard is in memory at a time.

    Args:
        store: the store below the set's prefix.
        entries: at least one shard.
        limit: 1 or more; where the shards hold fewer images, all come and nothing is drawn.
        draws: decides which.

    Raises:
        MissingResourceError: a shard is not there.
        StoreError: a shard is damaged.
    """
    total = sum(entry.images for entry in entries)
    chosen = torch.arange(total) if total <= limit else torch.randperm(total, generator=draws)[:limit].sort().values
    parts, start = [], 0
    for entry in entries:
        rows = chosen[(chosen >= start) & (chosen < start + entry.images)] - start
        start += entry.images
        if len(rows):
            parts.append([part[rows] for part in read_shard(store, entry)])
    return Shard(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _unpack(data: bytes, where: str, entry: ShardEntry) -> Shard:
    _, tensors = read_tensors(FORMAT, data, where)
    try:
        shard = Shard(tensors["images"], tensors["asked"], tensors[_CLASSES if _CLASSES in tensors else _LOGITS])
    except KeyError as error:
        raise StoreError(f"{where} has no {error}: materialize the set again.") from None
    if {len(part) for part in shard} != {entry.images}:
        raise CheckpointMismatchError(f"{where} does not hold the {entry.images} images of its manifest: materialize the set again.")
    return shard


def _count(classes: Tensor) -> ClassCounts:
    found, counts = classes.unique(return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))
