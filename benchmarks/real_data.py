"""Real images for benchmarks, read from a folder that the user has; nothing of them is committed.

`DIR/fashion_mnist` holds the four idx files, gzip or plain; `DIR/cifar10` holds `train-00.webp` and so on, lossless mosaics of tiles in
row-major order, with `train-labels.npy`, and the same for `test`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distillery.data.real import LabelledImages, load_labelled
from distillery.errors import MissingResourceError

CLASSES = {
    "fashion_mnist": ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
TILE = 32
_IDX_PREFIX = {"train": "train", "test": "t10k"}


def unpack(dataset: str, folder: Path, part: str, cache: Path) -> Path:
    """One part of a data set as an npz file that every step reads; made once.

    Args:
        dataset: a key of `CLASSES`.
        folder: the user's, with a folder a data set.
        part: train or test.
        cache: gets the file.

    Raises:
        MissingResourceError: the folder does not hold it.
    """
    path = cache / f"{part}.npz"
    if path.is_file():
        return path
    source = folder / dataset
    if not source.is_dir():
        raise MissingResourceError(f"There is no folder {dataset!r} in {str(folder)!r}: give the folder that holds the data sets.")
    found = load_labelled(str(source / _IDX_PREFIX[part])) if dataset == "fashion_mnist" else None
    images, labels = (found.images.numpy(), found.labels.numpy()) if found else read_mosaics(source, part)
    cache.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{part}.partial.npz")
    np.savez(fresh, images=images, labels=labels)
    fresh.rename(path)
    return path


def read_mosaics(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) of mosaics.

    Raises:
        MissingResourceError: no mosaic, or no labels.
    """
    files = sorted(folder.glob(f"{part}-[0-9]*.webp"))
    labels = folder / f"{part}-labels.npy"
    if not files or not labels.is_file():
        raise MissingResourceError(f"There is no {part}-00.webp or no {labels.name} in {str(folder)!r}: unpack the data set again.")
    parts = []
    for file in files:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
        tiles = pixels.reshape(rows, TILE, columns, TILE, 3).transpose(0, 2, 4, 1, 3)
        parts.append(tiles.reshape(rows * columns, 3, TILE, TILE))
    return np.concatenate(parts), np.load(labels, allow_pickle=False).astype(np.int64)


def load(dataset: str, folder: Path, part: str, cache: Path) -> LabelledImages:
    """One part of a data set."""
    return load_labelled(str(unpack(dataset, folder, part, cache)))
