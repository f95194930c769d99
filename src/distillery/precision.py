"""Losses and images are computed in full precision, whatever autocast made of them."""

import torch
from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """float64 as it is, everything else as float32."""
    return values if values.dtype == torch.float64 else values.float()
