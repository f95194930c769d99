"""A synthetic set in a store: shards under their content hash, and a manifest that is written last and makes them a set."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from distillery.data.manifest import MANIFEST, SetHeader, SetManifest, config_sha256, totals
from distillery.data.shards import (
    Role,
    Shard,
    ShardEntry,
    count_shard,
    describe_shard,
    has_shard,
    pack_shard,
    read_shard,
)
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.provenance import sha256_bytes
from distillery.storage import Store, open_store
from distillery.types import ImageSpec


class SetWriter:
    """Writes shards as images come, and publishes them as a set.

    Every call may be repeated after a crash: equal images give an equal shard under an equal key, and what is there is not written
    again. Nobody sees a set until `publish` has written its manifest.

    Args:
        store: the store below the set's prefix.
        header: what is known of the set.
        entries: shards written before, in their order, as a checkpoint names them.
    """

    def __init__(self, store: Store, header: SetHeader, entries: Sequence[ShardEntry] = ()) -> None:
        self.store = store
        self.header = header
        self._entries = list(entries)

    @property
    def entries(self) -> tuple[ShardEntry, ...]:
        """All shards so far, in order: what a checkpoint needs to keep."""
        return tuple(self._entries)

    def append(self, images: Tensor, asked: Tensor | None, teacher_logits: Tensor, role: Role = "train") -> ShardEntry:
        """Write one shard.

        Args:
            images: (n, C, H, W) uint8, n above 0.
            asked: (n,) int64, -1 where an image was asked for no class; None if none was.
            teacher_logits: (n, K), the teacher's logits of exactly these uint8 images; or its map of classes, (n, H, W) uint8.
            role: train, or holdout for images that no student may train on.

        Raises:
            StoreError: the store cannot be written.
        """
        asked = torch.full((len(images),), -1) if asked is None else asked
        assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, self.header.shape), "images are uint8 of the set's shape"
        assert (asked.dtype, len(asked)) == (torch.int64, len(images)), "one asked label an image, int64"
        row = (self.header.num_classes,) if teacher_logits.is_floating_point() else self.header.shape[1:]
        assert teacher_logits.shape == (len(images), *row), "logits are (n, K), a map is (n, H, W)"
        shard = Shard(images, asked, teacher_logits)
        data = pack_shard(shard, self.header.provenance)
        entry = describe_shard(shard, data, role)
        if not has_shard(self.store, entry):
            self.store.write(entry.key, data)
        self._entries.append(entry)
        return entry

    def adopt(self, entry: ShardEntry, source: Store) -> None:
        """Take a shard of another set, which has just been verified there.

        Args:
            entry: as that set's manifest names it.
            source: the store below that set's prefix.

        Raises:
            StoreError: the store cannot be written.
        """
        if not has_shard(self.store, entry):
            self.store.take(entry.key, source)
        self._entries.append(entry)

    def manifest(self, shortfall: Sequence[int] = (), seen: int = 0) -> bytes:
        """The file that makes the shards so far a set, for `publish_manifest` to write once the step's result is decided.

        Args:
            shortfall: (K,) images that the quotas wanted and did not get; empty where nothing is short.
            seen: images of which the training ones are a sample; 0 where they are all.
        """
        num_classes = self.header.num_classes
        assert len(shortfall) in (0, num_classes), "one shortfall a class"
        made = SetManifest(
            **dict(self.header),
            config_sha256=config_sha256(self.header.provenance),
            **totals(self._entries, num_classes),
            seen=seen,
            shortfall=tuple(shortfall) or (0,) * num_classes,
            shards=tuple(self._entries),
        )
        return made.to_bytes()


class SyntheticSet:
    """A published set; every shard is verified as it is read.

    Args:
        store: the store below the set's prefix.
        teacher_sha256: the teacher it must be of; "" accepts any.

    Raises:
        MissingResourceError: no set is published there.
        CheckpointMismatchError: the set is of another teacher, or of a newer version than this code reads.
        StoreError: the manifest is damaged.
    """

    def __init__(self, store: Store, teacher_sha256: str = "") -> None:
        try:
            data = store.read(MANIFEST)
        except MissingResourceError:
            raise MissingResourceError(f"No synthetic set is published at {store.uri!r}: check the URI, or materialize it.") from None
        self.store = store
        self.digest = sha256_bytes(data)
        self.manifest = SetManifest.from_bytes(data, f"The manifest of the set {store.uri!r}")
        if teacher_sha256 and self.manifest.teacher_sha256 != teacher_sha256:
            raise CheckpointMismatchError(
                f"The set {store.uri!r} was made with the teacher {self.manifest.teacher_sha256[:12]}, not with {teacher_sha256[:12]}: "
                "use that teacher, or materialize a set with this one."
            )

    @classmethod
    def open(cls, uri: str, teacher_sha256: str = "") -> Self:
        """The set published at a URI."""
        return cls(open_store(uri), teacher_sha256)

    def entries(self, role: Role) -> tuple[ShardEntry, ...]:
        """Its shards of one role, in order."""
        return tuple(entry for entry in self.manifest.shards if entry.role == role)

    def shards(self, role: Role) -> Iterator[Shard]:
        """Shards of one role, one at a time.

        Raises:
            MissingResourceError: a shard is missing.
            StoreError: a shard is damaged; it is never skipped.
        """
        for entry in self.entries(role):
            yield read_shard(self.store, entry)

    def load(self, role: Role = "train") -> Shard:
        """All images of one role, with asked labels and teacher logits; empty tensors where the set has none."""
        if shards := [*self.shards(role)]:
            return Shard(*(torch.cat(parts) for parts in zip(*shards, strict=True)))
        return Shard(
            torch.empty((0, *self.manifest.shape), dtype=torch.uint8),
            torch.empty(0, dtype=torch.int64),
            torch.empty((0, self.manifest.num_classes)),
        )

    def check(self, spec: ImageSpec) -> None:
        """Refuse a set that nothing can be trained on beside a teacher.

        Args:
            spec: of the teacher's images.

        Raises:
            ConfigError: images of another shape, or none to train on.
        """
        if self.manifest.shape != spec.shape:
            raise ConfigError(
                f"The set {self.store.uri!r} has images of shape {list(self.manifest.shape)}, but the teacher takes {list(spec.shape)}: "
                "give a set of its images."
            )
        if not self.manifest.images:
            raise ConfigError(f"The set {self.store.uri!r} has no images to train on: materialize a larger one.")

    def verify(self) -> None:
        """Read every shard from the store, past any cache, and compare what it holds with the manifest.

        Raises:
            MissingResourceError: a shard is missing.
            StoreError: a shard is damaged, or is not what the manifest says.
        """
        for entry in self.manifest.shards:
            shard = read_shard(self.store, entry, fresh=True)
            if any(getattr(entry, name) != value for name, value in count_shard(shard).items()):
                raise StoreError(f"The shard {entry.key!r} is not what the manifest of {self.store.uri!r} says: materialize it again.")


def split_holdout(n: int, share: float, generator: torch.Generator) -> Tensor:
    """Choose which of n images to withhold from training.

    Where n * share is no whole number it is rounded up or down at random, so that many small rounds withhold their share as well; at
    least one image is left to train on.

    Args:
        n: how many images.
        share: share to withhold, in [0, 1).
        generator: decides which; not drawn from at share 0.

    Returns:
        (n,) bool on the CPU, True where an image is withheld.

    Raises:
        ConfigError: the share is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ConfigError(f"holdout = {share!r} is not allowed: give a share from 0 to below 1, such as 0.05.")
    mask = torch.zeros(n, dtype=torch.bool)
    if share and n:
        device = generator.device
        count = int(n * share + torch.rand(1, generator=generator, device=device, dtype=torch.float64).item())
        mask[torch.randperm(n, generator=generator, device=device)[: min(count, n - 1)].cpu()] = True
    return mask
