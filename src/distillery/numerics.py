"""Numbers that can be trusted: full precision for losses and images, exact passes for what is stored or reported, and what is bad."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

EXPLODED = 1e6
"""No weighted term of a working run comes near it."""


def full_precision(values: Tensor) -> Tensor:
    """float64 as it is, everything else as float32."""
    return values if values.dtype == torch.float64 else values.float()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Autocast off, and on CUDA convolutions and matrix products in IEEE float32: TF32 changes the argmax of close calls.

    For every number that is stored or reported: logits, moments, scores.

    Args:
        device: that the network stands on.
    """
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def is_bad(values: Tensor) -> Tensor:
    """Where a value is not finite or beyond `EXPLODED`."""
    return ~values.isfinite() | (values.abs() > EXPLODED)


def clamp_through(images: Tensor) -> Tensor:
    """Images clamped to [0, 1], exactly; gradients pass as if they were not, so that a pixel outside is still pulled back."""
    clamped: Tensor = _ClampThrough.apply(images)  # type: ignore[no-untyped-call, unused-ignore]  # torch 2.9 has no types for it
    return clamped


class _ClampThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
