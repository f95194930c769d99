"""A synthetic set in a store: shards under their content hash, and a manifest that is written last and makes them a set."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from distillery.config import Config, canonical_json
from distillery.data.shards import (
    Role,
    Shard,
    ShardEntry,
    add_up,
    count_shard,
    describe_shard,
    has_shard,
    pack_shard,
    read_shard,
)
from distillery.documents import Format
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import FolderStore, Store, open_store

FORMAT = Format("distillery-set", 4, "materialize the set again")
MANIFEST = "manifest.json"
REFERENCE_FORMAT = Format("distillery-set-reference", 2, "run the step that made the set again")
REFERENCE = "reference.json"

_log = logging.getLogger(__name__)


SYNTHESIZER = "synthesizer"
"""What the synthesizer that a set was drawn from is called among its inputs; the shares of an ensemble by their number behind it."""


def synthesizers_in(inputs: Mapping[str, str]) -> dict[str, str]:
    """The synthesizers among the inputs of a set, in the order of their generators, with their sha256; empty where it was drawn from none.

    Args:
        inputs: sha256 by name.
    """
    return {name: inputs[name] for name in sorted(inputs) if name == SYNTHESIZER or name.startswith(f"{SYNTHESIZER}_")}


class SetHeader(Config):
    """What is known of a set before its first image.

    Attributes:
        shape: (C, H, W) of its images.
        num_classes: K, classes of the teacher.
        teacher_sha256: bundle hash of the teacher that labelled the images.
        synthesizer_sha256: hash of the synthesizer that made them; "" for those of an ensemble, which `provenance` names, for the pool of
            an online run, made by many states of one, and for images made from nothing.
        start_sha256: hash of the manifest of the set that this one began with, whose shards are its first ones; "" for none.
        start_images: training images of that set.
        provenance: where the set comes from.
    """

    shape: tuple[int, int, int]
    num_classes: int = Field(ge=2)
    teacher_sha256: str
    synthesizer_sha256: str = ""
    start_sha256: str = ""
    start_images: int = Field(default=0, ge=0)
    provenance: Provenance


class SetManifest(SetHeader):
    """The commit of a set; without one there is no set.

    Attributes:
        config_sha256: hash of the configuration in `provenance`.
        images: images that a student may train on.
        holdout: images withheld from training.
        counts: training images by the teacher's argmax, one number a class.
        asked: training images by the class they were asked for.
        agreed: training images that the teacher puts in the class they were asked for.
        seen: images that passed by the student only once and of which the training ones are a uniform sample; 0 where all are kept.
        shortfall: images that the quotas wanted and the synthesizer did not give, one number a class.
        shards: all shards, in the order they were written.
    """

    config_sha256: str
    images: int = Field(ge=0)
    holdout: int = Field(ge=0)
    counts: tuple[int, ...]
    asked: tuple[int, ...]
    agreed: int = Field(ge=0)
    seen: int = Field(default=0, ge=0)
    shortfall: tuple[int, ...]
    shards: tuple[ShardEntry, ...]
    _file_sha256: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _sums_of_its_shards(self) -> Self:
        if any(getattr(self, name) != value for name, value in _totals(self.shards, self.num_classes).items()):
            raise ValueError("its totals are not the sums of its shards")
        if self.config_sha256 != _config_sha256(self.provenance):
            raise ValueError("its configuration is another than the one that it names by hash")
        return self

    @property
    def synthesizers(self) -> tuple[str, ...]:
        """Hashes of the synthesizers that the images were drawn from: of one, or of each share of an ensemble."""
        return (self.synthesizer_sha256,) if self.synthesizer_sha256 else tuple(synthesizers_in(self.provenance.inputs).values())

    def to_bytes(self) -> bytes:
        """The manifest's file."""
        fields = self.to_json()
        del fields["provenance"]
        return FORMAT.write(self.provenance, fields)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Read a manifest's file.

        Args:
            data: its bytes.
            where: the set, for messages.

        Raises:
            CheckpointMismatchError: another format, or a newer version.
            StoreError: it is damaged.
        """
        document = FORMAT.read(data, where)
        manifest = document.parse(cls, provenance=document.provenance)
        manifest._file_sha256 = sha256_bytes(data)
        return manifest

    @property
    def sha256(self) -> str:
        """Of the file that it was read from, whose version may be an older one; else of the file that would be written."""
        return self._file_sha256 or sha256_bytes(self.to_bytes())


class SetReference(Config):
    """Where a published set is, and the sha256 of its manifest, which names every byte of it."""

    uri: str
    sha256: str


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
            config_sha256=_config_sha256(self.header.provenance),
            **_totals(self._entries, num_classes),
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


def write_reference(folder: Path, reference: SetReference) -> None:
    """Write what a pipeline hands on instead of a set: a copy of its manifest, its URI and its digest.

    Raises:
        MissingResourceError: no set is published at the reference.
        StoreError: the set there is another one, or the folder cannot be written.
    """
    published = _open_exactly(reference, "")
    FolderStore(folder).write(MANIFEST, published.store.read(MANIFEST))
    refer(folder, reference, published.manifest.provenance)


def refer(folder: Path, reference: SetReference, provenance: Provenance) -> None:
    """Write a reference, without a look at what it names; raises as every writing does."""
    FolderStore(folder).write(REFERENCE, REFERENCE_FORMAT.write(provenance, reference.to_json()))


def read_reference(folder: Path) -> SetReference:
    """The reference in a folder made by `write_reference`, without opening the set.

    Raises:
        MissingResourceError: the folder has none.
        CheckpointMismatchError: it is of a newer version than this code reads.
        StoreError: it is damaged.
    """
    where = f"The set reference {str(folder / REFERENCE)!r}"
    return REFERENCE_FORMAT.read(FolderStore(folder).read(REFERENCE), where).parse(SetReference)


def open_reference(folder: Path, teacher_sha256: str = "") -> SyntheticSet:
    """The set that a reference names.

    Args:
        folder: made by `write_reference`.
        teacher_sha256: the teacher it must be of; "" accepts any.

    Raises:
        MissingResourceError: the reference or the set is not there.
        CheckpointMismatchError: the set is of another teacher or of a newer version.
        StoreError: the set at its URI is no longer the one that was referred to.
    """
    return _open_exactly(_nearest(folder, read_reference(folder)), teacher_sha256)


def _nearest(folder: Path, reference: SetReference) -> SetReference:
    """A reference that lies in a store, where older runs kept it, is to the set of that store, also where it was copied."""
    place = "/".join(reference.uri.split("/")[-2:])
    for parent in folder.absolute().parents:
        if place.startswith("sets/") and (parent / place / MANIFEST).is_file():
            return reference.model_copy(update={"uri": str(parent / place)})
    return reference


def _open_exactly(reference: SetReference, teacher_sha256: str) -> SyntheticSet:
    found = SyntheticSet.open(reference.uri, teacher_sha256)
    if found.digest != reference.sha256:
        raise StoreError(
            f"The set at {reference.uri!r} is {found.digest[:12]}, not {reference.sha256[:12]} as referred to: run its step again."
        )
    return found


def _config_sha256(provenance: Provenance) -> str:
    return sha256_bytes(canonical_json(provenance.to_json()["config"]).encode())


def _totals(shards: Sequence[ShardEntry], num_classes: int) -> dict[str, Any]:
    """Sums over shards; per class over the training shards only."""
    train = [entry for entry in shards if entry.role == "train"]
    return {
        "images": sum(entry.images for entry in train),
        "holdout": sum(entry.images for entry in shards if entry.role == "holdout"),
        "counts": add_up((entry.counts for entry in train), num_classes),
        "asked": add_up((entry.asked for entry in train), num_classes),
        "agreed": sum(entry.agreed for entry in train),
    }
