"""Real labelled images, from the files that people have: npz, idx, a folder a class."""

import gzip
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.storage import Store, open_store, read_uri, split_uri
from distillery.types import ImageSpec

_IDX = re.compile(r"^(?:(?P<prefix>[^/]+)-)?(?P<what>images|labels)[-.]idx\d-ubyte(?:\.gz)?$")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
_IDX_UINT8 = 0x08
_IDX_KINDS = (("images", "idx3"), ("images", "idx4"), ("labels", "idx1"))


@dataclass(frozen=True)
class LabelledImages:
    """Real images with their classes.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, 0 or more.
    """

    images: Tensor
    labels: Tensor

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


def load_labelled(uri: str, class_names: Sequence[str] = ()) -> LabelledImages:
    """Read labelled images.

    Args:
        uri: `x.npz` with arrays `images` uint8 (N, C, H, W) or (N, H, W) and `labels` (N,); a folder with one pair of idx files, such as
            `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz`; `folder/t10k` where it holds several pairs; or a folder with
            one folder of images a class.
        class_names: the classifier's classes, which number the folders; without them folders named 0, 1, 2... are the labels
            themselves, and any others are numbered in the order of their names.

    Raises:
        ConfigError: the files are of no such kind, or do not fit together.
        MissingResourceError: there is nothing at the URI.
        StoreError: a file is damaged.
    """
    if uri.endswith(".npz"):
        return _from_npz(read_uri(uri), uri)
    store = open_store(uri)
    keys = store.list()
    if not keys:
        return _from_idx_prefix(uri)
    pairs = _idx_pairs(keys)
    if len(pairs) > 1:
        raise ConfigError(f"{uri!r} holds several pairs of idx files: end the path with one of {', '.join(sorted(pairs))}.")
    if pairs:
        return _from_idx(store, *next(iter(pairs.values())))
    return _from_folders(store, keys, class_names)


def _from_npz(data: bytes, where: str) -> LabelledImages:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            missing = [name for name in ("images", "labels") if name not in arrays.files]
            if missing:
                raise ConfigError(f"{where!r} has no array {missing[0]!r} but {arrays.files}: save it with arrays 'images' and 'labels'.")
            return _labelled(arrays["images"], arrays["labels"], where)
    except ConfigError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever the damage leads to
        raise StoreError(f"{where!r} is damaged or no npz file ({type(error).__name__}): copy or make it again.") from None


def _from_idx_prefix(uri: str) -> LabelledImages:
    folder, prefix = split_uri(uri.rstrip("/"))
    store = open_store(folder)
    # the parent may be any folder, so its files are asked for by name, not listed
    pairs = _idx_pairs([key for key in _idx_names(prefix) if store.exists(key)])
    if prefix not in pairs:
        raise MissingResourceError(f"There is no data at {uri!r}: give an npz file, a folder of idx files, or a folder of images a class.")
    return _from_idx(store, *pairs[prefix])


def _idx_names(prefix: str) -> list[str]:
    return [f"{prefix}-{what}{dot}{kind}-ubyte{end}" for what, kind in _IDX_KINDS for dot in "-." for end in ("", ".gz")]


def _idx_pairs(keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Keys of (images, labels) by the prefix they share, such as `train` and `t10k`."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if match := _IDX.match(key):
            found.setdefault(match["prefix"] or "", {})[match["what"]] = key
    return {prefix: (pair["images"], pair["labels"]) for prefix, pair in found.items() if len(pair) == 2}


def _from_idx(store: Store, images: str, labels: str) -> LabelledImages:
    return _labelled(_read_idx(store, images), _read_idx(store, labels), images)


def _read_idx(store: Store, key: str) -> NDArray[np.uint8]:
    """A uint8 idx file: two zero bytes, a type, the number of dimensions, each dimension as a big-endian integer, the values."""
    data = store.read(key)
    try:
        data = gzip.decompress(data) if key.endswith(".gz") else data
        zeros, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError):
        zeros, kind = 1, 0
    if zeros or kind != _IDX_UINT8:
        raise StoreError(f"{key!r} in {store.uri!r} is damaged or no idx file of unsigned bytes: copy it again.")
    return values


def _from_folders(store: Store, keys: Sequence[str], class_names: Sequence[str]) -> LabelledImages:
    files = [PurePosixPath(key) for key in keys if key.lower().endswith(_IMAGE_SUFFIXES) and "/" in key]
    if not files:
        raise ConfigError(f"{store.uri!r} holds no pair of idx files and no folder of images a class: give one of these, or an npz file.")
    numbers = _number_classes(sorted({path.parts[0] for path in files}), class_names, store.uri)
    pictures = [_read_picture(store, str(path)) for path in files]
    if any(picture.ndim == 3 for picture in pictures):  # gray files occur in colour data sets
        pictures = [picture if picture.ndim == 3 else picture[..., None].repeat(3, axis=2) for picture in pictures]
    for path, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ConfigError(
                f"{str(path)!r} in {store.uri!r} has another size than the first image ({picture.shape[1]} x {picture.shape[0]}, not "
                f"{pictures[0].shape[1]} x {pictures[0].shape[0]}): resize all to one."
            )
    images = np.stack(pictures)
    labels = np.array([numbers[path.parts[0]] for path in files])
    return _labelled(images.transpose(0, 3, 1, 2) if images.ndim == 4 else images, labels, store.uri)


def _number_classes(folders: Sequence[str], class_names: Sequence[str], where: str) -> dict[str, int]:
    if all(name.isdecimal() for name in folders) and not set(folders) <= set(class_names):
        return {name: int(name) for name in folders}
    names = list(class_names) or list(folders)
    unknown = [name for name in folders if name not in names]
    if unknown:
        raise ConfigError(f"{where!r} has a folder {unknown[0]!r}, which is no class: use {', '.join(map(repr, names[:12]))}...")
    return {name: names.index(name) for name in folders}


def _read_picture(store: Store, key: str) -> NDArray[np.uint8]:
    """(H, W) for a gray picture, else (H, W, 3)."""
    try:
        with Image.open(io.BytesIO(store.read(key))) as picture:
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise StoreError(f"{key!r} in {store.uri!r} is damaged or no image: copy it again, or remove it.") from None


def _labelled(images: NDArray[np.generic], labels: NDArray[np.generic], where: str) -> LabelledImages:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ConfigError(
            f"The images of {where!r} are {images.dtype} of shape {list(images.shape)}: give uint8 as (N, C, H, W) or (N, H, W), N above 0."
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or int(labels.min()) < 0:
        raise ConfigError(
            f"The labels of {where!r} are {labels.dtype} of shape {list(labels.shape)}: give {len(images)} integers from 0, one an image."
        )
    pixels = torch.from_numpy(np.array(images, dtype=np.uint8))
    return LabelledImages(pixels if images.ndim == 4 else pixels[:, None], torch.from_numpy(labels.astype(np.int64)))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
