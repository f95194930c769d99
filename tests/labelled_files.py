"""Small labelled images, and the files that people have them in."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distillery.data.real import LabelledImages

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
GRAY = PIXELS[:, 0]
LABELS = np.array([2, 0, 1, 2])


def idx(values: NDArray[np.integer], kind: int = 8) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, prefix: str, labels: NDArray[np.integer] = LABELS, dot: str = "-", packed: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    for name, values in ((f"images{dot}idx3", GRAY), (f"labels{dot}idx1", labels)):
        data = idx(values)
        (folder / f"{prefix}{name}-ubyte{'.gz' if packed else ''}").write_bytes(gzip.compress(data) if packed else data)


def write_pictures(folder: Path, names: list[str], mode: str = "RGB") -> None:
    for name, pixels in zip(names, PIXELS, strict=False):
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = pixels.transpose(1, 2, 0) if mode == "RGB" else pixels[0]
        Image.fromarray(picture).save(folder / name / f"{len(list((folder / name).iterdir()))}.png")


def assert_loaded(found: LabelledImages, images: NDArray[np.uint8], labels: NDArray[np.integer] = LABELS) -> None:
    assert found.images.dtype == torch.uint8
    assert found.labels.dtype == torch.int64
    assert torch.equal(found.images, torch.from_numpy(images if images.ndim == 4 else images[:, None]))
    assert found.labels.tolist() == labels.tolist()
    assert len(found) == len(labels)
