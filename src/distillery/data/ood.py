"""Images of another domain than the teacher's, for a student's batches or a method to learn from; never part of a synthetic set."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillery.data import arrays, idx
from distillery.data.decoding import has_picture_ending
from distillery.data.folders import FoundPictures, read_all_pictures
from distillery.data.listing import list_files
from distillery.data.noise import draw_noise, is_noise
from distillery.data.parts import find_parts
from distillery.data.pool import NO_LABEL, ImagePool
from distillery.data.real import find_file, load_labelled, taken
from distillery.data.reference import find_set
from distillery.errors import ConfigError
from distillery.storage import Store, open_store
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
        uri: a published set, of whatever teacher, or its manifest; a folder in which a step left its reference; a folder of pictures at any
            depth; arrays, idx files and CIFAR's batches as `load_labelled` reads them. Labels are let be, and need not be there. Noise
            is asked for as `noise://COUNT`.
        spec: of the teacher's images.

    Raises:
        ConfigError: nothing that can be read, images of another size, or none.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    if (found := find_set(uri)) is not None:
        images, digest = found.load("train").images, found.digest
    else:
        images = read_without_labels(uri, spec)
        digest = hashlib.sha256(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes()).hexdigest()
    if tuple(images.shape[1:]) != spec.shape:
        raise ConfigError(
            f"The images of another domain at {uri!r} have shape {list(images.shape[1:])}, but the teacher takes {list(spec.shape)}: "
            "convert them."
        )
    if not len(images):
        raise ConfigError(f"There are no images of another domain at {uri!r}: give a set or a folder that has some.")
    return OodImages(images, digest)


def read_without_labels(uri: str, spec: ImageSpec) -> Tensor:
    """Images (N, C, H, W) uint8 of no class, whatever labels stand beside them; their size is left to the caller to check.

    Args:
        uri: a folder of pictures at any depth; arrays, idx files and CIFAR's batches, with or without labels; or as `draw_noise` takes it.
        spec: of the teacher's images.

    Raises:
        ConfigError: nothing that can be read.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    if is_noise(uri):
        return draw_noise(uri, spec)
    found = _without_labels(uri, spec)
    return load_labelled(uri, (), spec, split="train").images if found is None else taken(found, uri, spec)[0]


def _without_labels(uri: str, spec: ImageSpec) -> FoundPictures | None:
    """Images that need no labels; None where only a reader of labelled images knows what lies there, or what is wrong with it."""
    if (file := find_file(uri)) is not None:
        return _of_file(*file, uri)
    store = open_store(uri)
    listing = list_files(store)
    if find_parts(listing.keys, below=False):
        return None
    if pictures := read_all_pictures(store, listing, spec):
        return pictures
    alone = [key for key in listing.keys if "/" not in key and (_is_idx(key) or key.lower().endswith(".npy"))]
    return _of_file(store, alone[0], uri) if len(alone) == 1 else None


def _of_file(store: Store, name: str, where: str) -> FoundPictures | None:
    values: NDArray[np.generic]
    if _is_idx(name):
        values = idx.read_idx(store, name)
    elif name.lower().endswith(".npy"):
        values = arrays.read_npy(store.read(name), where)
    elif name.lower().endswith(".npz"):
        data = store.read(name)
        _, names = arrays.read_npz(data, where, ())
        if arrays.pairs(names):
            return None
        if "images" not in names:
            raise ConfigError(f"{where!r} has no array 'images' but {names}: save the pictures under that name.")
        values = arrays.read_npz(data, where, ("images",))[0]["images"]
    elif has_picture_ending(name):
        raise ConfigError(f"{where!r} is one picture: give the folder that holds it and others.")
    else:
        return None
    images, changes = arrays.as_images(values, where)
    return FoundPictures(images, np.full(len(images), NO_LABEL, dtype=np.int64), tuple(changes))


def _is_idx(key: str) -> bool:
    """Whether a file holds images as idx, of which the labels' file may be missing."""
    return idx.prefix_of(key) is not None and "images" in key
