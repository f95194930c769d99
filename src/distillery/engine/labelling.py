"""What the teacher says about stored images."""

import torch
from torch import Tensor

from distillery.data.pool import dequantize
from distillery.numerics import exact
from distillery.types import Classifier

_BATCH = 256


@torch.no_grad()
def teacher_logits(teacher: Classifier, images: Tensor) -> Tensor:
    """Logits (N, K) float32 of uint8 images (N, C, H, W), without autocast or TF32: they are stored, and quotas count their argmax.

    Args:
        teacher: frozen.
        images: on any device; the logits are on the teacher's.
    """
    device = teacher.mean.device
    with exact(device):
        parts = [teacher(teacher.arrange(dequantize(part.to(device)))).float() for part in images.split(_BATCH)]
    return torch.cat(parts) if parts else torch.empty(0, teacher.num_classes, device=device)
