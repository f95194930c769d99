"""What several families share."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class GlobalAverage(nn.Module):
    """Means over height and width: (N, C, H, W) to (N, C), whatever the size."""

    def forward(self, features: Tensor) -> Tensor:
        """Means of (N, C, H, W) over the last two axes."""
        return features.mean(dim=(2, 3))


def conv3x3(entries: int, exits: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (at stride 1) and has no bias, because a BatchNorm follows it."""
    return nn.Conv2d(entries, exits, 3, stride=stride, padding=1, groups=groups, bias=False)


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution, written as what it is: every stride-th pixel, then a 1x1 convolution of stride 1.

    PyTorch's CPU kernels (2.15, AVX2) write outside their memory in the backward pass of a strided 1x1 convolution of fewer than 8
    channels in channels-last order; taking the pixels first avoids that kernel at every width.
    """

    def __init__(self, entries: int, exits: int, step: int) -> None:
        super().__init__(entries, exits, 1, bias=False)
        self.step = step

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, exits, ceil(H / step), ceil(W / step))."""
        return super().forward(features[..., :: self.step, :: self.step])


def conv1x1(entries: int, exits: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return SubsampledConv2d(entries, exits, stride) if stride > 1 else nn.Conv2d(entries, exits, 1, bias=False)


def build_stages(
    entries: int, stages: Iterable[tuple[int, int]], block: Callable[[int, int, int], nn.Module]
) -> tuple[nn.Sequential, tuple[str, ...]]:
    """The blocks of a residual network, one after another; each stage but the first begins by halving height and width.

    Args:
        entries: channels that come in.
        stages: how many blocks each stage has, and how many channels go out of them.
        block: of channels that come in, channels that go out, and stride.

    Returns:
        The blocks, and the paths of the stages' ends in a network that calls them `blocks`.
    """
    blocks: list[nn.Module] = []
    ends: list[str] = []
    for stage, (count, exits) in enumerate(stages):
        for index in range(count):
            blocks.append(block(entries, exits, 2 if stage and not index else 1))
            entries = exits
        ends.append(f"blocks.{len(blocks) - 1}")
    return nn.Sequential(*blocks), tuple(ends)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """He's normal initialisation of convolutions over their fan-out, zero biases; BatchNorm and linear weights keep PyTorch's own.

    Source:
        arXiv:1502.01852, section 2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
