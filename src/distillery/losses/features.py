"""How far features within two networks are from each other: relations between layers (FSP), hints, attention maps."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

Pooling = Literal["max", "average"]
"""How the larger of two maps is brought to the size of the smaller."""
Reduction = Literal["sum", "mean"]
"""Over the entries of a matrix: the squared Frobenius norm, or that divided by the number of entries."""

_POOLS: dict[Pooling, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "max": functional.adaptive_max_pool2d,
    "average": functional.adaptive_avg_pool2d,
}


def common_size(one: Tensor, other: Tensor) -> tuple[int, int]:
    """Height and width that two layers' maps (N, C, H, W) are both pooled to: the smaller of each."""
    return min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3])


def pool_to(features: Tensor, size: tuple[int, int], pooling: Pooling) -> Tensor:
    """Maps pooled to a size, where they have another.

    Args:
        features: (N, C, H, W).
        size: (h, w), at most (H, W).
        pooling: by the largest value of each cell, or by its average.

    Returns:
        (N, C, h, w).
    """
    return features if features.shape[2:] == size else _POOLS[pooling](features, size)


def fsp_matrix(start: Tensor, end: Tensor, pooling: Pooling = "max") -> Tensor:
    """The flow of the solution procedure between two layers: G[i, j] = 1/(hw) * sum over places of start[i] * end[j].

    Args:
        start: (N, m, H, W), of the layer that the flow comes from.
        end: (N, n, h, w); where the sizes differ both are pooled to the smaller height and width.
        pooling: how.

    Returns:
        (N, m, n).

    Source: Yim et al., CVPR 2017, equation 1; pooled by the maximum as there.
    """
    size = common_size(start, end)
    first, second = (pool_to(features, size, pooling).flatten(2) for features in (start, end))
    return first @ second.mT / (size[0] * size[1])


def fsp_distance(teacher: Tensor, student: Tensor, reduction: Reduction = "sum") -> Tensor:
    """1/N * sum_x || G_T(x) - G_S(x) ||_F^2 of one pair of layers.

    Args:
        teacher: G_T, (N, m, n).
        student: G_S, (N, m, n).
        reduction: `mean` divides by m * n too, so that wide layers weigh no more than narrow ones.

    Returns:
        A scalar, at least 0.

    Source: Yim et al., CVPR 2017, equation 2.
    """
    # the sum grows with the width of both layers: on digits it began at 43,509, and one step of SGD at 0.05 was not finite
    squares = (teacher - student).square()
    return squares.mean() if reduction == "mean" else squares.sum((1, 2)).mean()


def attention_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a layer looks: the mean of its squared activations over the channels, pooled, flattened, of length 1.

    Args:
        features: (N, C, H, W).
        size: (h, w) that maps larger than it are pooled to, by their average.

    Returns:
        (N, h * w), each row of norm 1, or 0 where nothing is active.

    Source: Zagoruyko & Komodakis, arXiv:1612.03928, section 3.1, sum of squares (the mean has the same direction).
    """
    energy = features.square().mean(1, keepdim=True)
    # pooled first, for a map of another size has length 1 too; the length is taken as 1e-12 at least, so that a dead layer's map is
    # 0, and its gradient too because of the square
    return functional.normalize(pool_to(energy, size, "average").flatten(1))


def attention_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared difference of two layers' attention maps, the larger pooled to the size of the smaller.

    Args:
        teacher: features (N, C, H, W).
        student: features (N, D, h, w), of any width.

    Returns:
        A scalar, at least 0: the mean over images and places.

    Source: Zagoruyko & Komodakis, arXiv:1612.03928, equation 2, with the mean of squares instead of the norm, as comparisons of methods
    have it: their weight of 1000 is meant for it.
    """
    size = common_size(teacher, student)
    return (attention_map(teacher, size) - attention_map(student, size)).square().mean()


def hint_distance(teacher: Tensor, regressed: Tensor) -> Tensor:
    """Mean squared difference of the teacher's hint layer and the student's guided layer behind its regressor.

    Args:
        teacher: (N, C, H, W).
        regressed: (N, C, H, W).

    Returns:
        A scalar, at least 0.

    Source: Romero et al., arXiv:1412.6550, equation 3, the mean over all elements instead of half their sum.
    """
    return functional.mse_loss(regressed, teacher)
