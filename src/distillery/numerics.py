"""Numbers that can be trusted: full precision for losses and images, exact passes for what is stored or reported, and what is bad."""

import threading
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
    _SWITCHES.enter()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _SWITCHES.leave()


class _Switches:
    """TF32's, which belong to the process while blocks of threads may overlap: the first to open finds them, the last puts them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._found: list[str] = []

    def enter(self) -> None:
        """Switch TF32 off."""
        with self._lock:
            if not self._open:
                self._found = [setting.fp32_precision for setting in _settings()]
            self._open += 1
            for setting in _settings():
                setting.fp32_precision = "ieee"

    def leave(self) -> None:
        """Set what was found again, unless another block is still open."""
        with self._lock:
            self._open -= 1
            if not self._open:
                for setting, precision in zip(_settings(), self._found, strict=True):
                    setting.fp32_precision = precision


_SWITCHES = _Switches()


def _settings() -> tuple[Any, ...]:
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]


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
