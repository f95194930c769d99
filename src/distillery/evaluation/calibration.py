"""Whether a confidence of 0.8 is right four times out of five: expected calibration error and its reliability bins."""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config

_AT_ONCE = 1024


class ReliabilityBin(Config):
    """Images whose confidence lies in (lower, upper]; the first bin also holds 0.

    Attributes:
        lower: exclusive edge.
        upper: inclusive edge.
        count: images in the bin.
        confidence: their mean confidence, 0 in an empty bin.
        accuracy: the share of them that is right, 0 in an empty bin.
    """

    lower: float
    upper: float
    count: int = Field(ge=0)
    confidence: float
    accuracy: float


class Calibration(Config):
    """ECE = sum over bins of n_b / N * |accuracy_b - confidence_b|, confidence = the largest softmax probability.

    Source: arXiv:1706.04599 (Guo et al. 2017), equal-width bins.
    """

    ece: float = 0.0
    bins: tuple[ReliabilityBin, ...] = ()

    @classmethod
    def measure(cls, logits: Tensor, labels: Tensor, num_bins: int = 15) -> Self:
        """Bin the images by confidence.

        Args:
            logits: (N, K), N >= 1.
            labels: (N,) int64 in [0, K).
            num_bins: bins of equal width.
        """
        parts = [part.double().softmax(1).max(1) for part in logits.split(_AT_ONCE)]  # of many classes the largest thing in memory
        confidence, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
        right = (predicted == labels).double()
        index = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
        counts = index.bincount(minlength=num_bins)
        sums = counts.clamp(min=1).double()
        confidences = index.bincount(confidence, minlength=num_bins) / sums
        accuracies = index.bincount(right, minlength=num_bins) / sums
        ece = float((counts * (accuracies - confidences).abs()).sum() / len(labels))
        rows = zip(counts.tolist(), confidences.tolist(), accuracies.tolist(), strict=True)
        bins = tuple(
            ReliabilityBin(lower=i / num_bins, upper=(i + 1) / num_bins, count=count, confidence=mean, accuracy=share)
            for i, (count, mean, share) in enumerate(rows)
        )
        return cls(ece=ece, bins=bins)
