"""Pictures that people have, turned into what a classifier takes; every change of a pixel is put into words."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distillery.data.arrays import as_images, read_npy, read_npz, to_channels
from distillery.data.decoding import decode
from distillery.data.listing import LeftOut, choose_pictures, list_files, shown
from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.storage import FolderStore
from distillery.types import ImageSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """One picture as a classifier takes it.

    Attributes:
        name: its file, and its place in it where the file holds several.
        pixels: (C, H, W) uint8.
        changes: what was done to it, in words; "" where nothing was.
    """

    name: str
    pixels: Tensor
    changes: str


def find_pictures(paths: Sequence[Path]) -> tuple[list[Path], LeftOut]:
    """The files that are named, and the pictures at any depth of folders that are named; and what was left out of these.

    Raises:
        StoreError: a folder that cannot be listed.
    """
    found: list[Path] = []
    left_out = LeftOut()
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        store = FolderStore(path)
        listing = list_files(store)
        found += [path / key for key in choose_pictures(store, listing.keys, listing.left_out)]
        for kind, names in listing.left_out.files.items():
            for name in names:
                left_out.add(kind, str(path / name))
    if left_out:
        _log.warning("%s.", left_out.words())
    return found, left_out


def read_pictures(paths: Sequence[Path], spec: ImageSpec, resize: bool = False) -> Iterator[Picture]:
    """Read pictures one after the other, as `decoding.decode` has them, with as many channels as the classifier expects.

    Args:
        paths: PNG, JPEG and whatever else pillow reads; npz with an array `images`, or npy, uint8 (N, C, H, W) or (N, H, W).
        spec: the images that the classifier expects.
        resize: stretch a picture of another size (bilinear with antialiasing, proportions not kept) instead of refusing it.

    Raises:
        ConfigError: another size without `resize`, values whose range nobody can know, or a number of channels that cannot be converted.
        MissingResourceError: no such file.
        StoreError: a file that is damaged or no image.
    """
    for path in paths:
        data = _read(path)
        if path.suffix.lower() in (".npz", ".npy"):
            yield from _from_arrays(data, path, spec, resize)
        else:
            pixels, changes = decode(data, str(path))
            yield _fit(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), changes, shown(str(path)), spec, resize)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingResourceError(f"There is no image {str(path)!r}: check the path.") from None
    except IsADirectoryError:
        raise ConfigError(f"{str(path)!r} is a folder: find its pictures first.") from None
    except OSError as error:
        raise StoreError(f"The image {str(path)!r} cannot be read ({error.strerror}): check its permissions.") from None


def _from_arrays(data: bytes, path: Path, spec: ImageSpec, resize: bool) -> Iterator[Picture]:
    if path.suffix.lower() == ".npy":
        values = read_npy(data, str(path))
    else:
        arrays, found = read_npz(data, str(path), ("images",))
        if not arrays:
            raise ConfigError(f"{str(path)!r} has no array 'images' but {found}: save the pictures under that name.")
        values = arrays["images"]
    images, changes = as_images(values, str(path))
    for index, image in enumerate(images):
        yield _fit(image, tuple(changes), f"{shown(str(path))}[{index}]", spec, resize)


def _fit(image: NDArray[np.uint8], changes: tuple[str, ...], name: str, spec: ImageSpec, resize: bool) -> Picture:
    """A picture (C, H, W) with the classifier's channels and size."""
    (fitting,), converted = to_channels(image[None], spec.channels)
    if len(fitting) != spec.channels:
        raise ConfigError(
            f"{name!r} has {len(fitting)} channels, but the classifier expects {spec.channels} channels: give npz with uint8 "
            f"(N, {spec.channels}, H, W)."
        )
    changes = (*changes, *converted)
    _, height, width = fitting.shape
    if (height, width) != (spec.height, spec.width):
        if not resize:
            raise ConfigError(
                f"{name!r} is {width} x {height} pixels (width x height), but the classifier expects "
                f"{spec.width} x {spec.height}: resize it, or give --resize to have it stretched."
            )
        changes = (*changes, f"{width} x {height} -> {spec.width} x {spec.height}")
        fitting = np.stack([_stretched(channel, spec) for channel in fitting])
    return Picture(name, torch.from_numpy(np.array(fitting, order="C")), ", ".join(changes))


def _stretched(channel: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((spec.width, spec.height), Image.Resampling.BILINEAR))
