"""Images and labels as numpy saves them: npz files, and pairs of npy files."""

import io
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillery.errors import ConfigError, StoreError

_TOGETHER = (("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "targets"), ("images", "targets"))
_NAME = re.compile(r"^(?:(?P<before>\w+?)[_-])?(?P<what>images|labels|data|targets|x|y)(?:[_-](?P<after>\w+))?$", re.IGNORECASE)
WHATS = tuple(dict.fromkeys(what for pair in _TOGETHER for what in pair))
"""What arrays of images and of labels are called."""
_CHANNELS = (1, 3)
_GREY_WEIGHTS = np.array([19595, 38470, 7471], dtype=np.uint32)
"""ITU-R 601 luma in 1/65536, as pillow has it."""
_AT_ONCE = 1024
_MOST_LABELS = 2**31
"""More than classes that anybody tells apart: what is above is no label, such as a -1 that was saved as unsigned."""


def pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Names of (images, labels) by split: `x_test` with `y_test` is `test`, `images` with `labels` is ``.

    Args:
        names: of arrays, without the ending of their files.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _NAME.match(name):
            split = "_".join(part.lower() for part in (match["before"], match["after"]) if part)
            found.setdefault(split, {})[match["what"].lower()] = name
    together = {split: next((pair for pair in _TOGETHER if set(pair) <= set(whats)), None) for split, whats in found.items()}
    return {split: (found[split][pair[0]], found[split][pair[1]]) for split, pair in together.items() if pair}


def names_beside(name: str) -> list[str]:
    """What the other array of a pair may be called; nothing beside a name that says neither images nor labels."""
    match = _NAME.match(name)
    if match is None:
        return []
    what, start, end = match["what"], name[: match.start("what")], name[match.end("what") :]
    others = [one for pair in _TOGETHER if what.lower() in pair for one in pair if one != what.lower()]
    return [f"{start}{cased}{end}" for other in others for cased in (other, other.capitalize())]


def read_npz(data: bytes, where: str, names: Sequence[str]) -> tuple[dict[str, NDArray[np.generic]], list[str]]:
    """Those of some arrays that a npz file has, and the names of all that it has.

    Raises:
        StoreError: a damaged file, or an array of Python objects.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = list(arrays.files)
            return {name: arrays[name] for name in names if name in found}, found
    except Exception:  # numpy and zipfile raise whatever the damage leads to
        raise StoreError(f"{where!r} is damaged or no npz file: copy or make it again.") from None


def read_npy(data: bytes, where: str) -> NDArray[np.generic]:
    """An array.

    Raises:
        StoreError: a damaged file, or an array of Python objects.
    """
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # numpy raises whatever the damage leads to
        raise StoreError(f"{where!r} is damaged or no npy file of numbers: copy or make it again.") from None
    if not isinstance(found, np.ndarray):
        raise StoreError(f"{where!r} holds several arrays: name it as the npz file that it is.")
    return found


def as_images(values: NDArray[np.generic], where: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Images as (N, C, H, W), and in words what that took: channels that stand last are moved.

    Raises:
        ConfigError: no uint8, other dimensions, or no image.
    """
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or not values.size:
        raise ConfigError(
            f"The images of {where!r} are {values.dtype} of shape {list(values.shape)}: give uint8 as (N, C, H, W) or (N, H, W), N above 0."
        )
    images = np.asarray(values, dtype=np.uint8)
    if images.ndim == 3:
        return images[:, None], []
    if images.shape[3] in _CHANNELS and images.shape[1] not in _CHANNELS:
        return images.transpose(0, 3, 1, 2), ["channels last -> first"]
    return images, []


def as_labels(values: NDArray[np.generic], count: int, where: str) -> NDArray[np.int64]:
    """Labels as (N,); a column of them, as Keras saves them, is one.

    Raises:
        ConfigError: no integers from 0, or not one an image.
    """
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.dtype.kind not in "iu" or flat.shape != (count,) or not 0 <= int(flat.min()) <= int(flat.max()) < _MOST_LABELS:
        raise ConfigError(
            f"The labels of {where!r} are {values.dtype} of shape {list(values.shape)}: give {count} integers from 0, one an image."
        )
    return flat.astype(np.int64)


def to_channels(images: NDArray[np.uint8], channels: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Images (N, C, H, W) with as many channels as a classifier expects, where that is harmless, and in words what that took.

    Colour becomes grey by ITU-R 601 luma, grey becomes RGB by repeating it; whatever else stays as it is.
    """
    found = images.shape[1]
    if (found, channels) == (1, 3):
        return images.repeat(3, axis=1), ["grey -> RGB"]
    if (found, channels) == (3, 1):
        return np.concatenate([_luma(part) for part in np.split(images, range(_AT_ONCE, len(images), _AT_ONCE))]), ["RGB -> grey"]
    return images, []


def _luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    weighed: NDArray[np.uint32] = np.einsum("nchw,c->nhw", images.astype(np.uint32), _GREY_WEIGHTS)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[:, None]
