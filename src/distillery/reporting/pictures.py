"""Pictures of a page as PNG inside the page: what the student saw of each class, and large confusion matrices."""

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.data.shards import read_shard
from distillery.data.store import SyntheticSet
from distillery.evaluation.accuracy import Cells

MAX_CLASSES = 60
BUDGET = 900_000
"""Bytes of all pictures of a page together."""
_SHARDS = 12
_SIDE = 64
_HEAT = (0, 103, 148)


class ClassPicture(Config):
    """Some images of one class, side by side in one picture.

    Attributes:
        name: of the class that the teacher sees in them.
        images: how many the picture shows.
        in_set: training images of the class in the whole set.
        png: the picture, base64.
        width: in pixels.
        height: in pixels.
    """

    name: str
    images: int = Field(ge=1)
    in_set: int = Field(ge=0)
    png: str
    width: int
    height: int


def sample_classes(found: SyntheticSet, names: Sequence[str]) -> tuple[ClassPicture, ...]:
    """Pictures of a set's training images by class, taken evenly over the set and not for their looks.

    Args:
        found: the set.
        names: one a class.

    Raises:
        DistilleryError: a shard that is missing or damaged.
    """
    counts = found.manifest.counts
    shown = [index for index in range(len(names)) if counts[index]]
    if len(shown) > MAX_CLASSES:
        shown = [shown[round(place * (len(shown) - 1) / (MAX_CLASSES - 1))] for place in range(MAX_CLASSES)]
    per_class = 8 if len(shown) <= 20 else 5
    picked = _pick(found, shown, per_class)
    for number, side in ((per_class, _SIDE), (4, _SIDE), (4, _SIDE // 2), (2, _SIDE // 2)):
        samples = tuple(_sample(names[index], picked[index][:number], counts[index], side) for index in shown if len(picked[index]))
        if sum(len(sample.png) for sample in samples) <= BUDGET:
            break
    return samples


def strip(images: Tensor, side: int = _SIDE) -> Image.Image:
    """Images (N, C, H, W) uint8 in one row, a pixel apart; made smaller where they are larger than `side`; grey unless C is 3."""
    pixels = images if images.shape[1] == 3 else images[:, :1]
    num, channels, height, width = pixels.shape
    canvas = torch.zeros((num, channels + 1, height, width + 1), dtype=torch.uint8)  # the last channel is opacity: gaps have none
    canvas[..., :width] = torch.cat([pixels, torch.full_like(pixels[:, :1], 255)], dim=1)
    row = canvas.permute(2, 0, 3, 1).reshape(height, num * (width + 1), channels + 1)[:, :-1]
    picture = Image.fromarray(row.contiguous().numpy())
    scale = side / max(height, width)
    return picture if scale >= 1 else picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX)


def heat_map(confusion: Cells, num_classes: int) -> str:
    """A confusion matrix as a base64 PNG, a pixel a cell; the more of its row a cell has, the less transparent."""
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    for label, answer, count in confusion:
        matrix[label, answer] = count
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    alpha = (255 * shares.sqrt()).round().to(torch.uint8)
    colour = torch.tensor(_HEAT, dtype=torch.uint8).expand(*alpha.shape, 3)
    return _base64(Image.fromarray(torch.cat([colour, alpha[..., None]], dim=2).numpy()))


def _pick(found: SyntheticSet, classes: Sequence[int], per_class: int) -> dict[int, Tensor]:
    """Up to `per_class` images of each class out of shards spread over the set; more shards are read only while a class is short."""
    entries = found.entries("train")
    count = len(entries)
    spread = dict.fromkeys(round(place * (count - 1) / max(min(_SHARDS, count) - 1, 1)) for place in range(min(_SHARDS, count)))
    order = [*spread, *(index for index in range(count) if index not in spread)]
    share = max(1, -(-per_class // len(spread))) if spread else 1
    picked = {index: torch.empty((0, *found.manifest.shape), dtype=torch.uint8) for index in classes}
    for turn, index in enumerate(order):
        if turn >= len(spread) and all(len(images) >= per_class for images in picked.values()):
            break
        shard = read_shard(found.store, entries[index])
        obtained = shard.teacher_logits.argmax(1)
        room = per_class if turn >= len(spread) else min(per_class, share * (turn + 1))
        for label, images in picked.items():
            fresh = shard.images[obtained == label][: max(room - len(images), 0)]
            picked[label] = torch.cat([images, fresh])
        if turn >= 4 * _SHARDS:
            break
    return picked


def _sample(name: str, images: Tensor, in_set: int, side: int) -> ClassPicture:
    picture = strip(images, side)
    return ClassPicture(name=name, images=len(images), in_set=in_set, png=_base64(picture), width=picture.width, height=picture.height)


def _base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
