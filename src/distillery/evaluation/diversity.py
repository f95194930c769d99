"""How unlike each other images are, measured on features; pure functions of tensors, each exact."""

import math
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config

_BLOCK = 1024


class Diversity(Config):
    """How far a set's features spread.

    Attributes:
        distance: mean cosine distance over all pairs of images, in [0, 2].
        class_distance: the same over the pairs within a class; 0 where no class has two images.
        directions: participation ratio of the features' covariance, (sum of eigenvalues)^2 / sum of squares: over how many directions
            the images spread evenly; 0 where all features are equal.
        duplicates: share of images with a cosine similarity above the threshold to an earlier one.
    """

    distance: float
    class_distance: float
    directions: float = Field(ge=0)
    duplicates: float = Field(ge=0, le=1)

    @classmethod
    def measure(cls, features: Tensor, classes: Tensor, duplicate_similarity: float) -> Self:
        """Measure features.

        Args:
            features: (N, D), N above 0.
            classes: (N,) int64.
            duplicate_similarity: cosine above which an image counts as a duplicate of an earlier one.
        """
        units = unit_vectors(features)
        groups = [units[classes == label] for label in classes.unique()]
        pairs = [len(group) * (len(group) - 1) for group in groups]
        within = sum(mean_distance(group) * count for group, count in zip(groups, pairs, strict=True))
        return cls(
            distance=mean_distance(units),
            class_distance=within / max(sum(pairs), 1),
            directions=participation_ratio(features),
            duplicates=float(is_duplicate(units, duplicate_similarity).double().mean()),
        )


def unit_vectors(features: Tensor) -> Tensor:
    """Features (N, D) scaled to length 1, with one more column, in float64.

    The column is 1 where all features of an image are zero and no direction exists: such images are alike, and at right angles to all
    others.
    """
    wide = features.double()
    norms = wide.norm(dim=1, keepdim=True)
    none = (norms == 0).double()
    return torch.cat([wide / (norms + none), none], dim=1)


def mean_distance(units: Tensor) -> float:
    """Mean cosine distance over all pairs of unit vectors (N, D); 0 below two.

    From the length of their sum, since |sum u|^2 = N + sum over i != j of <u_i, u_j>: linear in N, and exact.
    """
    num = len(units)
    if num < 2:
        return 0.0
    similarity = (float(units.sum(0).square().sum()) - num) / (num * (num - 1))
    return max(1 - similarity, 0.0)


def participation_ratio(features: Tensor) -> float:
    """(tr C)^2 / tr C^2 of the covariance C of features (N, D), from the smaller of its two Gram matrices; 0 without variance."""
    wide = features.double()
    centred = wide - wide.mean(0)
    if float(centred.abs().max()) <= 1e-6 * max(float(wide.abs().max()), 1e-30):  # what rounding leaves of equal features
        return 0.0
    gram = centred.T @ centred if centred.shape[0] > centred.shape[1] else centred @ centred.T
    return float(gram.diagonal().sum() ** 2 / gram.square().sum())


def is_duplicate(units: Tensor, similarity: float) -> Tensor:
    """Which unit vectors (N, D) have a cosine above `similarity` to an earlier one, (N,) bool; blockwise, N^2 D in all."""
    found = torch.zeros(len(units), dtype=torch.bool, device=units.device)
    single = units.float()
    for start in range(0, len(single), _BLOCK):
        block = single[start : start + _BLOCK]
        # row i of the block is image start + i, and only the columns before it are earlier
        close = (block @ single[: start + len(block)].T > similarity).tril(start - 1)
        found[start : start + len(block)] = close.any(1)
    return found


def class_entropy(counts: tuple[int, ...]) -> float:
    """Entropy of a class histogram as a share of the largest that its images allow, in [0, 1]; 0 without images."""
    total, highest = sum(counts), math.log(max(min(len(counts), sum(counts)), 2))
    shares = [count / total for count in counts if count]
    return min(max(-sum(share * math.log(share) for share in shares), 0.0) / highest, 1.0)
