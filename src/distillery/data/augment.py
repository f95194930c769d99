"""Random crops and flips of a whole batch at once, on its device."""

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config


class AugmentConfig(Config):
    """Which augmentations a student sees.

    Attributes:
        crop_padding: each image moves by up to this many pixels either way, in height and in width; zeros enter at the border.
        flip: mirror each image left to right with probability 1/2.
    """

    crop_padding: int = Field(default=0, ge=0, le=256)
    flip: bool = False


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Pad with zeros, crop back to the same size at a random place, mirror at random: for each image by itself.

    A crop is a selection of rows and of columns, so it is written as two products with one-hot matrices, rows @ image @ columns^T:
    a few batched kernels whatever N is, differentiable in the images. A matrix row without a one is a row of padding.

    Args:
        images: (N, C, H, W), a floating type.
        config: what to do; with everything off the images themselves come back.
        generator: source of the shifts and mirrors; the same CPU generator gives the same crops on every device.

    Returns:
        (N, C, H, W), each pixel exactly one of its image or 0.
    """
    if not config.crop_padding and not config.flip:
        return images
    num, _, height, width = images.shape
    # an asynchronous copy towards the host could be read before it is there
    asynchronous = images.device.type == "cuda"
    down, right, mirror = (part.to(images.device, non_blocking=asynchronous) for part in draw_shifts(num, config, generator))
    rows = _selection(torch.arange(height, device=images.device) + down[:, None], images)
    source = torch.arange(width, device=images.device).expand(num, width)
    columns = _selection(torch.where(mirror[:, None] > 0, width - 1 - source, source) + right[:, None], images)
    # autocast would round the pixels to bfloat16 inside these products
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images @ columns.transpose(-1, -2)


def draw_shifts(num: int, config: AugmentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One batch's random numbers, (num,) int64 each, on the generator's device.

    Args:
        num: how many images.
        config: the range of the shifts, and whether to mirror.
        generator: where they are drawn.

    Returns:
        Rows to move down and columns to move right in the source, in [-crop_padding, crop_padding]; mirror, 0 or 1.
    """
    reach, device = config.crop_padding, generator.device
    shifts = torch.randint(-reach, reach + 1, (2, num), generator=generator, device=device)
    mirror = torch.randint(0, 2 if config.flip else 1, (num,), generator=generator, device=device)
    return shifts[0], shifts[1], mirror


def _selection(source: Tensor, like: Tensor) -> Tensor:
    """One-hot matrices (N, 1, size, size) from indices (N, size): row i selects source[:, i], or nothing where that is out of range."""
    places = torch.arange(source.shape[1], device=source.device)
    return (source[:, None, :, None] == places).to(like.dtype)
