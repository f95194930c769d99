"""What a classifier sees just before it decides: the input of its last linear layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillery.evaluation.predict import predict
from distillery.statistics.taps import tap_inputs, visited_path
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
        The input of the linear layer with one output a class that a forward pass visits last; the logits where it visits none, or where
        the layer's input is no vector an image.

    Raises:
        ConfigError: images that the classifier does not take, or logits that are not finite.
    """
    parts, logits, sources = [], [], set()
    with tap_inputs(classifier, _may_decide(classifier)) as seen:
        for part in images.split(batch):
            logits.append(predict(classifier, part, batch))
            features = seen.find(seen.keys[-1]) if seen.keys else None
            if features is not None and features.dim() == 2 and len(features) == len(part):
                sources.add(visited_path(seen.keys[-1]))
                parts.append(features.detach().float().cpu())
    if len(parts) < len(logits) or len(sources) > 1:
        return Features(torch.cat(logits), LOGITS)
    return Features(torch.cat(parts), sources.pop())


def _may_decide(classifier: Classifier) -> list[str]:
    """Paths of every `nn.Linear` that has one output a class."""
    linear = {path: child for path, child in classifier.named_modules() if isinstance(child, nn.Linear)}
    return [path for path, child in linear.items() if child.out_features == classifier.num_classes]
