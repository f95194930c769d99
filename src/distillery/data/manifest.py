"""What a synthetic set says of itself: known before its first image, and summed over its shards in the manifest that makes it a set."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from distillery.config import Config, canonical_json
from distillery.data.shards import ShardEntry, add_up
from distillery.documents import Format
from distillery.provenance import Provenance, sha256_bytes

FORMAT = Format("distillery-set", 4, "materialize the set again")
MANIFEST = "manifest.json"


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
        if any(getattr(self, name) != value for name, value in totals(self.shards, self.num_classes).items()):
            raise ValueError("its totals are not the sums of its shards")
        if self.config_sha256 != config_sha256(self.provenance):
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


def config_sha256(provenance: Provenance) -> str:
    """The hash of the configuration that a set was made with."""
    return sha256_bytes(canonical_json(provenance.to_json()["config"]).encode())


def totals(shards: Sequence[ShardEntry], num_classes: int) -> dict[str, Any]:
    """Sums over shards; per class over the training shards only."""
    train = [entry for entry in shards if entry.role == "train"]
    return {
        "images": sum(entry.images for entry in train),
        "holdout": sum(entry.images for entry in shards if entry.role == "holdout"),
        "counts": add_up((entry.counts for entry in train), num_classes),
        "asked": add_up((entry.asked for entry in train), num_classes),
        "agreed": sum(entry.agreed for entry in train),
    }
