"""Images of another domain than the teacher's, to mix into a student's batches; never part of a synthetic set."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillery.data.pool import ImagePool
from distillery.data.real import load_labelled
from distillery.data.store import MANIFEST, REFERENCE, SyntheticSet, open_reference
from distillery.errors import ConfigError
from distillery.storage import open_store
from distillery.types import ImageSpec


@dataclass(frozen=True)
class OodImages:
    """Images without labels: what they show is no class of the teacher's.

    Attributes:
        images: (N, C, H, W) uint8, of the teacher's shape.
        digest: sha256 of them, or of the manifest of the set that they lie in.
    """

    images: Tensor
    digest: str

    def pool(self, spec: ImageSpec, device: torch.device | str) -> ImagePool:
        """All of them on a device."""
        pool = ImagePool(spec, device, capacity=len(self.images))
        pool.append(self.images)
        return pool


def load_ood(uri: str, spec: ImageSpec) -> OodImages:
    """Read images of another domain.

    Args:
        uri: a published set, of whatever teacher; a folder in which a step left its reference; or pictures and arrays as `load_labelled`
            reads them, whose labels are let be.
        spec: of the teacher's images.

    Raises:
        ConfigError: nothing that can be read, images of another shape, or none.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    if (found := _as_set(uri)) is not None:
        images, digest = found.load("train").images, found.digest
    else:
        images = load_labelled(uri, (), spec, split="train").images
        digest = hashlib.sha256(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes()).hexdigest()
    if tuple(images.shape[1:]) != spec.shape:
        raise ConfigError(
            f"The images of another domain at {uri!r} have shape {list(images.shape[1:])}, but the teacher takes {list(spec.shape)}: "
            "convert them."
        )
    if not len(images):
        raise ConfigError(f"There are no images at {uri!r} to mix into a student's batches: give a set or a folder that has some.")
    return OodImages(images, digest)


def _as_set(uri: str) -> SyntheticSet | None:
    if "://" not in uri and (Path(uri) / REFERENCE).is_file():
        return open_reference(Path(uri))
    return SyntheticSet.open(uri) if open_store(uri).exists(MANIFEST) else None
