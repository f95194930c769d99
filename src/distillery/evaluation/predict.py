"""Logits of a classifier on many images, as exact as float32 gets: every number of a report is computed from them."""

from collections.abc import Callable

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.grammar import counted
from distillery.numerics import exact
from distillery.statistics.modes import eval_mode
from distillery.types import Classifier


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, batch: int = 256, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """Logits in eval mode, without autocast or TF32.

    Args:
        classifier: on any device; its modes are as before afterwards.
        images: (N, C, H, W) uint8.
        batch: images a forward pass; changes the result by rounding only.
        progress: told the images done and all images after each batch.

    Returns:
        Logits (N, K), float32 on the CPU.

    Raises:
        ConfigError: no images, images that are not uint8 or of another shape, or logits that are not finite.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != classifier.spec.shape:
        raise ConfigError(
            f"Images {tuple(images.shape)} {images.dtype} do not fit a classifier of {classifier.spec.shape}: give uint8 (N, C, H, W)."
        )
    if not len(images):
        raise ConfigError("There are no images to evaluate on: give a data set with at least one image.")
    device = classifier.mean.device
    parts = []
    with eval_mode(classifier), exact(device):
        for start in range(0, len(images), batch):
            pixels = images[start : start + batch].to(device).float() / 255
            parts.append(classifier(classifier.arrange(pixels)).float().cpu())
            if progress:
                progress(min(start + batch, len(images)), len(images))
    logits = torch.cat(parts)
    broken = int((~logits.isfinite().all(dim=1)).sum())
    if broken:
        raise ConfigError(
            f"The logits of {broken} of {counted(len(images), 'image')} are not finite, so nothing can be measured: train it again."
        )
    return logits
