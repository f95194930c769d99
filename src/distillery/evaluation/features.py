"""What a classifier sees just before it decides: the input of its last linear layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillery.evaluation.predict import predict
from distillery.statistics.taps import tap_inputs
from distillery.types import Classifier

LOGITS = "logits"


class Features(NamedTuple):
    """One vector an image.

    Attributes:
        values: (N, D) float32 on the CPU.
        source: path of the linear layer whose input they are, or `logits` where the classifier has none that decides.
    """

    values: Tensor
    source: str


def penultimate(classifier: Classifier, images: Tensor, batch: int = 256) -> Features:
    """Features of uint8 images, in eval mode, without autocast.

    Args:
        classifier: on any device.
        images: (N, C, H, W) uint8, N above 0.
        batch: images a forward pass.

    Returns:
        The input of the last linear layer with one output a class; the logits where there is no such layer, where it is not used, or
        where its input is no vector an image.

    Raises:
        ConfigError: images that the classifier does not take, or logits that are not finite.
    """
    path = deciding_layer(classifier)
    parts, logits = [], []
    with tap_inputs(classifier, [path] if path else []) as seen:
        for part in images.split(batch):
            seen.clear()
            logits.append(predict(classifier, part, batch))
            if path in seen and seen[path].dim() == 2 and len(seen[path]) == len(part):
                parts.append(seen[path].detach().float().cpu())
    if len(parts) < len(logits):
        return Features(torch.cat(logits), LOGITS)
    return Features(torch.cat(parts), path)


def deciding_layer(classifier: Classifier) -> str:
    """Path of the last `nn.Linear` in definition order that has one output a class, "" where there is none."""
    paths = [
        path for path, child in classifier.named_modules() if isinstance(child, nn.Linear) and child.out_features == classifier.num_classes
    ]
    return paths[-1] if paths else ""
