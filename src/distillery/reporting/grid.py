"""Pictures of synthetic images for people to look at."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

_MAX_IMAGES = 64
_LEAST_PIXELS = 32


def image_grid(images: Tensor, classes: Tensor) -> bytes:
    """A PNG of up to 64 images, sorted by class.

    Args:
        images: (N, C, H, W) uint8, N above 0; the first channel is shown where C is not 3.
        classes: (N,) int64.
    """
    order = classes[:_MAX_IMAGES].argsort(stable=True)
    columns = math.ceil(math.sqrt(len(order)))
    return _paint(images, [row.tolist() for row in order.split(columns)], columns)


def class_grid(images: Tensor, classes: Tensor, num_classes: int, columns: int = 10) -> bytes:
    """A PNG with a row a class, in the order of the classes; a class with fewer images than columns leaves black cells.

    Args:
        images: (N, C, H, W) uint8; the first channel is shown where C is not 3.
        classes: (N,) int64.
        num_classes: rows.
        columns: images of a row, the first of their class.
    """
    rows: list[list[int]] = [[] for _ in range(num_classes)]
    for index, label in enumerate(classes.tolist()):
        if len(rows[label]) < columns:
            rows[label].append(index)
    return _paint(images, rows, columns)


def _paint(images: Tensor, rows: list[list[int]], columns: int) -> bytes:
    """Cells with a black pixel between them, enlarged where they are tiny."""
    _, channels, height, width = images.shape
    cells = torch.zeros((len(rows), columns, 3, height + 1, width + 1), dtype=torch.uint8)
    for place, chosen in zip(cells, rows, strict=True):
        part = images[chosen].cpu() if channels == 3 else images[chosen, :1].cpu()
        place[: len(chosen), :, :height, :width] = part
    page = cells.permute(0, 3, 1, 4, 2).reshape(len(rows) * (height + 1), columns * (width + 1), 3)
    picture = Image.fromarray(page.numpy())
    scale = max(1, math.ceil(_LEAST_PIXELS / max(height, width)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
