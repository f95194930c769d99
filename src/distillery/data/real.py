"""Real labelled images, from the files that people have: npz, npy, idx, CIFAR's batches, a folder a class."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillery.data import arrays
from distillery.data.decoding import has_picture_ending
from distillery.data.folders import FoundPictures, read_folders
from distillery.data.listing import Listing, list_files, some
from distillery.data.parts import Split, archives, choose, find_parts, part_named, part_of_file, read_npz
from distillery.errors import ConfigError, MissingResourceError
from distillery.storage import FolderStore, Store, open_store, split_uri
from distillery.types import ImageSpec

_log = logging.getLogger(__name__)
_GIVE = "give an npz file, a folder of idx files, or a folder of images a class"


@dataclass(frozen=True)
class LabelledImages:
    """Real images with their classes.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, 0 or more.
        notes: what was skipped, changed or chosen while they were read, in words.
    """

    images: Tensor
    labels: Tensor
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """sha256 over shapes, pixels and labels: what a step that reads the data puts into its key."""
        digest = hashlib.sha256(str((tuple(self.images.shape), tuple(self.labels.shape))).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, spec: ImageSpec, num_classes: int) -> None:
        """Refuse data that a classifier cannot be scored on.

        Raises:
            ConfigError: other channels or size, or a label that the classifier has no class for.
        """
        found = tuple(self.images.shape[1:])
        if found != spec.shape:
            raise ConfigError(
                f"The labelled images are {_shape(found)}, but the classifier expects {_shape(spec.shape)} (channels x height x width): "
                "convert them, or import the classifier with another image spec."
            )
        highest = int(self.labels.max())
        if highest >= num_classes:
            raise ConfigError(
                f"The labelled images have a label {highest}, but the classifier has {num_classes} classes (0 to {num_classes - 1}): "
                "use the data it was trained for."
            )


def load_labelled(uri: str, class_names: Sequence[str] = (), spec: ImageSpec | None = None, split: Split = "test") -> LabelledImages:
    """Read labelled images; what is skipped, changed or chosen on the way is logged and noted.

    Args:
        uri: an npz file with arrays `images` uint8 (N, C, H, W) or (N, H, W) and `labels` (N,); a folder with npy files of such names,
            such as `x_test.npy` and `y_test.npy`; a folder with a pair of idx files, such as `t10k-images-idx3-ubyte.gz` and
            `t10k-labels-idx1-ubyte.gz`; a folder with CIFAR's batches, pickled or binary; the folder above one of these; one of the files;
            `folder/t10k` for one split of several; or a folder with one folder of images a class.
        class_names: the classifier's classes, which number the folders; without them folders named 0, 1, 2... are the labels
            themselves, and any others are numbered in the order of their names.
        spec: what the classifier expects: grey images become RGB for it and coloured ones grey.
        split: which part of a data set that has several is taken.

    Raises:
        ConfigError: the files are of no such kind, or do not fit together.
        MissingResourceError: there is nothing at the URI.
        StoreError: a file is damaged.
    """
    found = _find(uri, class_names, spec, split)
    pixels, notes = taken(found, uri, spec)
    return LabelledImages(pixels, torch.from_numpy(found.labels.astype(np.int64)), notes)


def taken(found: FoundPictures, uri: str, spec: ImageSpec | None) -> tuple[Tensor, tuple[str, ...]]:
    """Pictures (N, C, H, W) uint8 with the channels of `spec`, and what was skipped, changed or chosen until then, which is logged.

    Args:
        found: as they were read.
        uri: where, for the log.
        spec: what the classifier expects; None leaves them.
    """
    images, converted = arrays.to_channels(found.images, spec.channels) if spec else (found.images, [])
    notes = (*found.notes, *converted)
    if notes:
        _log.warning("%r: %s images read; %s.", uri, f"{len(images):,}", "; ".join(notes))
    return torch.from_numpy(np.array(images, dtype=np.uint8, order="C")), notes


def _find(uri: str, class_names: Sequence[str], spec: ImageSpec | None, split: Split) -> FoundPictures:
    if (file := find_file(uri)) is not None:
        folder, name = file
        return (
            read_npz(folder.read(name), uri) if name.lower().endswith(".npz") else part_of_file(folder, name, uri).read(folder, class_names)
        )
    store = open_store(uri)
    listing = list_files(store)
    if not listing.keys:
        return _from_prefix(uri, store, listing, class_names)
    if part := choose(find_parts(listing.keys, below=False), split, uri):
        return part.read(store, class_names)
    if found := read_folders(store, listing, class_names, spec):
        return found
    if part := choose(find_parts(listing.keys, below=True), split, uri):
        return part.read(store, class_names)
    packed, loose = archives(listing.keys), any(map(has_picture_ending, listing.keys))
    advice = f"unpack {packed[0]!r} first" if packed else "move each class's pictures into a folder" if loose else _GIVE
    held = some(sorted({*listing.keys, *listing.left_out.names()}))
    raise ConfigError(f"{uri!r} holds {held}, but no pair of idx files and no folder of images a class: {advice}.")


def find_file(uri: str) -> tuple[Store, str] | None:
    """The folder and name of a file that a URI names; None where it names none."""
    try:
        folder, name = split_uri(uri)
        store = open_store(folder)
        return (store, name) if store.exists(name) else None
    except ConfigError:  # it ends in a slash, or with the bucket
        return None


def _from_prefix(uri: str, store: Store, listing: Listing, class_names: Sequence[str]) -> FoundPictures:
    if isinstance(store, FolderStore) and store.root.is_dir():
        skipped = f" ({listing.left_out.words()})" if listing.left_out else ""
        raise MissingResourceError(f"{uri!r} is a folder without a file that could be read{skipped}: {_GIVE}.")
    folder, name = split_uri(uri.rstrip("/"))
    beside = open_store(folder)
    part = part_named(beside, name)
    if part is None:
        raise MissingResourceError(f"There is no data at {uri!r}: {_GIVE}.")
    return part.read(beside, class_names)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
