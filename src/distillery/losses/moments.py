"""How far a batch's channel statistics are from those the teacher recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillery.numerics import full_precision


@dataclass(frozen=True)
class LayerMoments:
    """Mean and variance of one layer's channels, (C,) each."""

    mean: Tensor
    variance: Tensor


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance over (N, H, W) with a backward of one pass: d/dx = a_c * x + b_c."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = _channel_statistics(features)
        ctx.save_for_backward(features, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        features, mean = ctx.saved_tensors
        grad_mean, grad_variance = gradients
        count = features.numel() // features.shape[1]
        slope = 2 * grad_variance / count
        offset = grad_mean / count - slope * mean
        shape = (1, -1, 1, 1)
        return torch.addcmul(offset.view(shape).to(features.dtype), features, slope.view(shape).to(features.dtype))


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


def batch_moments(features: Tensor) -> LayerMoments:
    """Mean and BIASED variance (divided by n = N*H*W) of each channel.

    PyTorch accumulates `running_var` from unbiased variances; the mismatch, a factor n/(n-1), is the published method's.

    Args:
        features: the input of a BatchNorm2d, (N, C, H, W).

    Returns:
        mean (C,) and variance (C,), float32 (float64 for float64 features).

    Source: DeepInversion, arXiv:1912.08795, equation 4.
    """
    mean, variance = _ChannelMoments.apply(features)
    return LayerMoments(mean, variance)


def moment_distance(batch: Sequence[LayerMoments], target: Sequence[LayerMoments]) -> Tensor:
    """Sum over layers of ||mean - mean_hat||_2 + ||var - var_hat||_2: plain norms, not squared, not divided by C.

    Args:
        batch: the statistics of this batch, one a layer.
        target: those the teacher recorded, same order and shapes.

    Returns:
        A scalar, at least 0.

    Source: LS-GDFD, arXiv:2012.05578, equation 4; the same form in FastDFKD's code.
    """
    norms = [
        torch.linalg.vector_norm(seen.mean - wanted.mean) + torch.linalg.vector_norm(seen.variance - wanted.variance)
        for seen, wanted in zip(batch, target, strict=True)
    ]
    return torch.stack(norms).sum()


def blend(batch: LayerMoments, past: LayerMoments, momentum: float) -> LayerMoments:
    """(1 - m) * batch + m * past: the exponential average that FastDFKD compares with the teacher's statistics.

    Gradient flows through the batch part only, scaled by 1 - m.

    Args:
        batch: this batch's statistics.
        past: the running average so far, detached.
        momentum: m in [0, 1).

    Source: FastDFKD, arXiv:2112.07327, section 3.3.
    """
    return LayerMoments(torch.lerp(batch.mean, past.mean, momentum), torch.lerp(batch.variance, past.variance, momentum))
