"""Noise in the place of images: drawn anew wherever it is asked for, the same from the same seed, so that nothing of it is kept."""

import re

import torch
from torch import Tensor

from distillery.data.pool import quantize
from distillery.errors import ConfigError
from distillery.seeding import stream
from distillery.types import ImageSpec

SCHEME = "noise://"
LARGEST = 10_000_000
"""Images of noise that may be asked for: more than any set has, few enough for a slip of the finger to be told."""
_ADDRESS = re.compile(r"noise://([0-9]{1,15})(?:\?seed=([0-9]{1,15}))?")


def is_noise(uri: str) -> bool:
    """Whether an address asks for noise."""
    return uri.startswith(SCHEME)


def draw_noise(uri: str, spec: ImageSpec) -> Tensor:
    """The noise that an address asks for: (N, C, H, W) uint8.

    Args:
        uri: `noise://6000` for N = 6000, or `noise://6000?seed=1` for others; without one the seed is 0.
        spec: of the teacher's images.

    Raises:
        ConfigError: it says no number, or one out of range.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None or not 1 <= int(found[1]) <= LARGEST:
        raise ConfigError(f"{uri!r} is not allowed: write noise://COUNT, such as noise://6000 or noise://6000?seed=1, of 1 to {LARGEST:,}.")
    return noise_images(spec, int(found[1]), int(found[2] or 0))


def noise_images(spec: ImageSpec, num: int, seed: int) -> Tensor:
    """Half uniform, half Gaussian with the mean and deviation of the teacher's images.

    Args:
        spec: shape, mean and deviation.
        num: N.
        seed: of the draws.

    Returns:
        (N, C, H, W) uint8.
    """
    draws = stream(seed, "noise")
    uniform = torch.rand(num // 2, *spec.shape, generator=draws)
    gaussian = torch.randn(num - num // 2, *spec.shape, generator=draws)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return quantize(torch.cat([uniform, gaussian * std + mean]))
