"""Pictures in a folder a class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillery.data.class_names import match_classes
from distillery.data.decoding import decode
from distillery.data.listing import OUTSIDE, Listing, choose_pictures, some, tally
from distillery.data.pool import NO_LABEL
from distillery.errors import ConfigError
from distillery.storage import Store
from distillery.types import ImageSpec

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev"})


@dataclass(frozen=True)
class FoundPictures:
    """Labelled pictures as they were found.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64; -1 where nobody asked for classes.
        notes: what was skipped, changed and missing, in words.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def read_folders(store: Store, listing: Listing, class_names: Sequence[str], spec: ImageSpec | None) -> FoundPictures | None:
    """Read all pictures below class folders; None where there are none.

    Args:
        store: the folder or bucket.
        listing: its files; gets those that are left out.
        class_names: the classifier's, which number the folders.
        spec: what the classifier expects; None takes the size of the first picture, and grey only where all are.

    Raises:
        ConfigError: a picture of another size, one that cannot be converted, or a folder that is no class.
        StoreError: a damaged picture.
    """
    pictures = choose_pictures(store, listing.keys, listing.left_out)
    keys = [key for key in pictures if "/" in key]
    for key in set(pictures) - set(keys):
        listing.left_out.add(OUTSIDE, key)
    if not keys:
        return None
    tops = list(dict.fromkeys(key.partition("/")[0] for key in keys))
    _refuse_splits(tops, class_names, store.uri)
    numbers = match_classes(tops, class_names, store.uri)
    images, changes = _read(store, keys, spec)
    empty = [name for name in dict.fromkeys(folder.partition("/")[0] for folder in listing.folders) if name not in numbers]
    notes = [listing.left_out.words(), f"no picture in {some(empty)}" if empty else "", _shared(numbers), _changed(changes, len(keys))]
    labels = np.array([numbers[key.partition("/")[0]] for key in keys], dtype=np.int64)
    return FoundPictures(images, labels, tuple(note for note in notes if note))


def read_all_pictures(store: Store, listing: Listing, spec: ImageSpec) -> FoundPictures | None:
    """Read the pictures of a folder at any depth, of no class (-1), in the order of their names; None where there are none.

    Args:
        store: the folder or bucket.
        listing: its files; gets those that are left out.
        spec: what the classifier expects.

    Raises:
        ConfigError: a picture of another size, or one that cannot be converted.
        StoreError: a damaged picture.
    """
    keys = choose_pictures(store, listing.keys, listing.left_out)
    if not keys:
        return None
    images, changes = _read(store, keys, spec)
    notes = [listing.left_out.words(), _changed(changes, len(keys))]
    return FoundPictures(images, np.full(len(keys), NO_LABEL, dtype=np.int64), tuple(note for note in notes if note))


def _read(store: Store, keys: Sequence[str], spec: ImageSpec | None) -> tuple[NDArray[np.uint8], Counter[str]]:
    pictures: list[NDArray[np.uint8]] = []
    changes: Counter[str] = Counter()
    wanted = (spec.height, spec.width) if spec else (0, 0)
    for key in keys:
        name = f"{store.uri}/{key}"
        picture = decode(store.read(key), name)
        size = (picture.pixels.shape[0], picture.pixels.shape[1])
        wanted = size if not any(wanted) else wanted
        if size != wanted:
            whose = "the classifier expects" if spec else "the first image is"
            raise ConfigError(
                f"{name!r} is {size[1]} x {size[0]} pixels (width x height), but {whose} {wanted[1]} x {wanted[0]}: resize all to one size."
            )
        pictures.append(picture.pixels)
        changes.update(picture.changes)
    if any(pixels.ndim == 3 for pixels in pictures):  # grey files occur in colour data sets
        stacked = np.stack([pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2) for pixels in pictures])
        return stacked.transpose(0, 3, 1, 2), changes
    return np.stack(pictures)[:, None], changes


def _refuse_splits(tops: Sequence[str], class_names: Sequence[str], where: str) -> None:
    """The folder above `train` and `val`: nobody can know which of them is meant."""
    folded = {name.casefold() for name in tops}
    if folded <= _SPLITS and not folded & {name.casefold() for name in class_names}:
        ends = " or ".join(repr(f"{where}/{name}") for name in sorted(tops))
        raise ConfigError(f"{where!r} holds {some(sorted(tops))} and no folder a class: give {ends}.")


def _shared(numbers: dict[str, int]) -> str:
    folders: dict[int, list[str]] = {}
    for name, number in numbers.items():
        folders.setdefault(number, []).append(name)
    shared = [names for names in folders.values() if len(names) > 1]
    return "; ".join(f"folders {some(names)} are one class" for names in shared)


def _changed(changes: Counter[str], count: int) -> str:
    return f"of {count:,} pictures some changed: {tally(changes)}" if changes else ""
