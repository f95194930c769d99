"""How far a batch's channel statistics are from those the teacher recorded.

A batch may hold G groups of B images each, folded to (G*B, C, H, W) with the group outermost: image b of group g stands at g*B + b. So
G generators that are trained as one reach the teacher in one pass, and so does a batch whose images are ordered by class. Each group
has statistics of its own, and losses add up over groups: what one group alone would minimise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillery.numerics import full_precision


@dataclass(frozen=True)
class LayerMoments:
    """Mean and variance of one layer's channels, (C,) each; (G, C) where a batch holds several groups."""

    mean: Tensor
    variance: Tensor


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance over (B, H, W) of each group with a backward of one pass: d/dx = a_gc * x + b_gc."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        mean, variance = _group_statistics(features, groups)
        # autograd cannot go back through the pass that BatchNorm makes, and through `var_mean` it takes several over every layer
        ctx.save_for_backward(features, mean)
        ctx.groups = groups
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        features, mean = ctx.saved_tensors
        grad_mean, grad_variance = gradients
        count = features.numel() // mean.numel()
        # d var / dx = 2 (x - mean) / n: what the mean contributes to it is 0, since deviations add up to 0
        slope = 2 * grad_variance / count
        offset = grad_mean / count - slope * mean
        shape = (ctx.groups, 1, -1, 1, 1)
        # in full precision: offset and slope * x nearly cancel each other where |mean| is larger than the deviation
        gradient = torch.addcmul(offset.view(shape), full_precision(features).unflatten(0, (ctx.groups, -1)), slope.view(shape))
        return gradient.flatten(0, 1).to(features.dtype), None


def _group_statistics(features: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, each (C,) of one group and (G, C) of several."""
    if groups == 1:
        return _channel_statistics(features)
    if features.device.type != "cpu":
        variance, mean = torch.var_mean(full_precision(features).unflatten(0, (groups, -1)), dim=(1, 3, 4), correction=0)
        return mean, variance
    # a group is one piece of memory in either layout, so the fast pass over each costs what one pass over all of them does;
    # groups as further channels of one pass would have to be copied into place first, which takes longer than the pass
    means, variances = zip(*map(_channel_statistics, features.chunk(groups)), strict=True)
    return torch.stack(means), torch.stack(variances)


def _channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of (N, C, H, W) over all but C, each (C,) in full precision."""
    if features.device.type != "cpu":
        variance, mean = torch.var_mean(full_precision(features), dim=(0, 2, 3), correction=0)
        return mean, variance
    # on CPU a reduction over three axes takes up to fifteen times as long as the pass that BatchNorm itself makes;
    # that pass also writes running statistics, which nobody reads here but whose type decides that of the result
    unread = features.new_zeros((2, features.shape[1]), dtype=torch.promote_types(features.dtype, torch.float32))
    mean, variance = torch.batch_norm_update_stats(features, unread[0], unread[1], 0.0)
    return mean, variance


def batch_moments(features: Tensor, groups: int = 1) -> LayerMoments:
    """Mean and BIASED variance (divided by n = B*H*W) of each channel, group by group.

    PyTorch accumulates `running_var` from unbiased variances; the mismatch, a factor n/(n-1), is the published method's.

    Args:
        features: the input of a BatchNorm2d, (G*B, C, H, W) with the group outermost.
        groups: G, which divides the batch.

    Returns:
        Mean and variance, (C,) of one group and (G, C) of several, float32 (float64 for float64 features). A group's are those that its
        images alone would have.

    Source: DeepInversion, arXiv:1912.08795, equation 4.
    """
    assert len(features) % groups == 0, f"{len(features)} images are no {groups} groups of equal size"
    mean, variance = _ChannelMoments.apply(features, groups)  # type: ignore[no-untyped-call, unused-ignore]  # torch 2.9 has no types for it
    return LayerMoments(mean, variance)


def moment_distance(batch: Sequence[LayerMoments], target: Sequence[LayerMoments], first: float = 1.0) -> Tensor:
    """Sum over layers and groups of ||mean - mean_hat||_2 + ||var - var_hat||_2: plain norms, not squared, not divided by C.

    Each group has norms of its own, because one norm over G groups at the distance d would be sqrt(G) * d: each generator of a stack
    would learn with a gradient that the others' distances divide.

    Args:
        batch: the statistics of this batch, one a layer, (C,) or (G, C).
        target: those the teacher recorded, in the same order: (C,), the same for every group, or (G, C).
        first: factor on the first layer's share; DeepInversion's settings for ImageNet give it 10.

    Returns:
        A scalar, at least 0: the sum of what each group alone would give.

    Source: LS-GDFD, arXiv:2012.05578, equation 4; the same form in FastDFKD's code; `first`: DeepInversion's code.
    """
    norms = [_norms(seen.mean - wanted.mean) + _norms(seen.variance - wanted.variance) for seen, wanted in zip(batch, target, strict=True)]
    if first != 1:
        norms[0] = first * norms[0]
    return torch.stack(norms).sum()


def _norms(difference: Tensor) -> Tensor:
    """The L2 norm over the channels of each group, summed over groups."""
    # no epsilon: where a distance is 0, torch gives the gradient 0 and not the NaN of a root
    norms: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return norms.sum()


def blend(batch: LayerMoments, past: LayerMoments, momentum: float) -> LayerMoments:
    """(1 - m) * batch + m * past: the exponential average that FastDFKD compares with the teacher's statistics.

    Gradient flows through the batch part only, scaled by 1 - m. Groups are averaged each for itself: a group that changes its class
    from one call to the next compares a mixture of classes with the targets of one.

    Args:
        batch: this batch's statistics.
        past: the running average so far, detached.
        momentum: m in [0, 1).

    Returns:
        Mean and variance of the shapes of the two.

    Source: FastDFKD, arXiv:2112.07327, section 3.3.
    """
    return LayerMoments(torch.lerp(batch.mean, past.mean, momentum), torch.lerp(batch.variance, past.variance, momentum))
