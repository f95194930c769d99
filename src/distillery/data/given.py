"""Images that were there before a run, for a student to learn from: a published set, or real ones, read where they lie.

Real images are never copied into a store, which others may read: a digest over their pixels, and over their labels where these are read,
takes the place of a set's manifest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillery.config import Config
from distillery.data.ood import read_without_labels
from distillery.data.real import LabelledImages, load_labelled
from distillery.data.reference import SetReference, refer
from distillery.documents import Format
from distillery.errors import ConfigError
from distillery.provenance import Provenance
from distillery.seeding import stream
from distillery.storage import FolderStore
from distillery.types import ImageSpec

IMAGES = "images.json"
FORMAT = Format("distillery-images", 2, "run the step that opened them again")


@dataclass(frozen=True)
class GivenImages:
    """Real images, opened.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 below the number of classes; None where they are not read.
        uri: where they lie.
        digest: sha256 over the shape and the pixels, and over the labels where they are read.
    """

    images: Tensor
    labels: Tensor | None
    uri: str
    digest: str


class ImagesFacts(Config):
    """What is known of real images without reading them.

    Attributes:
        sha256: their digest.
        images: how many.
        labels: whether labels are read with them.
        counts: images by label, one number a class; empty without labels.
        classes: of the labels, where they are others than the teacher's.
        holdout: how many of them no student trains on, see `withhold`.
    """

    sha256: str
    images: int
    labels: bool
    counts: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    holdout: int = 0


def load_given(uri: str, spec: ImageSpec, class_names: Sequence[str], labels: bool, must: bool = False) -> GivenImages:
    """Read real images.

    Args:
        uri: as `load_labelled` takes it with labels, as `load_ood` does without: then whatever labels stand beside the images are let be.
        spec: of the teacher's images.
        class_names: the student's classes.
        labels: read them.
        must: nothing can be done with the images without them.

    Raises:
        ConfigError: nothing that can be read, no labels where they are asked for, images of another size, or a label without a class.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    if labels:
        found = _labelled(uri, spec, class_names, must)
        return GivenImages(found.images, found.labels, uri, found.digest())
    images = read_without_labels(uri, spec)
    if tuple(images.shape[1:]) != spec.shape:
        raise ConfigError(
            f"The images at {uri!r} have shape {list(images.shape[1:])}, but the teacher takes {list(spec.shape)}: convert them."
        )
    digest = hashlib.sha256(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes()).hexdigest()
    return GivenImages(images, None, uri, digest)


def withhold(images: int, holdout: int) -> tuple[Tensor, Tensor]:
    """Which of given images a student trains on, and which it never sees: drawn once, the same for every student and seed.

    Args:
        images: N.
        holdout: how many are withheld; they lie sorted by class, so these are drawn from all of them.

    Returns:
        Places (N - holdout,) and (holdout,), each in the order of the images.
    """
    places = torch.randperm(images, generator=stream(0, "holdout"))
    return places[holdout:].sort().values, places[:holdout].sort().values


def _labelled(uri: str, spec: ImageSpec, class_names: Sequence[str], must: bool) -> LabelledImages:
    try:
        found = load_labelled(uri, class_names, spec, split="train")
        found.check(spec, len(class_names))
    except ConfigError as error:
        if must:
            raise
        raise ConfigError(f"{str(error).rstrip('.')}; or let labels be with data.labels: ignore, where no objective needs them.") from None
    return found


def write_images_reference(folder: Path, facts: ImagesFacts, uri: str, provenance: Provenance) -> None:
    """Write what a pipeline hands on instead of real images: what is known of them, and where they lie.

    Raises:
        StoreError: the folder cannot be written.
    """
    write_facts(folder, facts, provenance)
    refer(folder, SetReference(uri=uri, sha256=facts.sha256), provenance)


def write_facts(folder: Path, facts: ImagesFacts, provenance: Provenance) -> None:
    """Write what is known of real images, without the place where they lie: the part of a reference that equal images make equal.

    Raises:
        StoreError: the folder cannot be written.
    """
    FolderStore(folder).write(IMAGES, FORMAT.write(provenance, facts.to_json()))


def is_of_images(folder: Path) -> bool:
    """Whether a reference is to real images; else it is to a set."""
    return (folder / IMAGES).is_file()


def read_facts(folder: Path) -> ImagesFacts:
    """What a reference to real images says of them.

    Raises:
        MissingResourceError: it is none.
        StoreError: it is damaged.
    """
    return FORMAT.read(FolderStore(folder).read(IMAGES), str(folder / IMAGES)).parse(ImagesFacts)
