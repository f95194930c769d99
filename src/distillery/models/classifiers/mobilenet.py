"""MobileNetV2 for small images."""

from pydantic import Field
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.layers import GlobalAverage, conv1x1, conv3x3, initialise
from distillery.types import ImageSpec

# Expansion, channels, blocks, stride of the first block: the paper's table 2 with the first two of its strides at 1.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2Config(Config):
    """Settings of a MobileNetV2.

    Attributes:
        width_multiplier: scales every layer's channels, rounded to multiples of 8; the last layer is never below 1280.
        dropout: before the linear layer.
    """

    width_multiplier: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks; stem and second stage at stride 1, so that 32 px end at 4 px.

    Args:
        config: its settings.
        spec: the images it gets; any size.
        num_classes: K.

    Source:
        arXiv:1801.04381, table 2; the two strides as CIFAR users of it have them, and no dropout by default.
    """

    def __init__(self, config: MobileNetV2Config, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        entries = _round(32 * config.width_multiplier)
        layers: list[nn.Module] = [_layer(conv3x3(spec.channels, entries))]
        ends = ["blocks.0"]
        for expansion, width, count, stride in _STAGES:
            if stride > 1:  # a stage is what has one size of image
                ends.append(f"blocks.{len(layers) - 1}")
            exits = _round(width * config.width_multiplier)
            for index in range(count):
                layers.append(InvertedResidual(entries, exits, stride if not index else 1, expansion))
                entries = exits
        self.stage_outputs = (*ends, f"blocks.{len(layers) - 1}")
        last = _round(1280 * max(1.0, config.width_multiplier))
        self.blocks = nn.Sequential(*layers, _layer(conv1x1(entries, last)))
        self.pool = GlobalAverage()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(last, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        logits: Tensor = self.head(self.dropout(self.pool(self.blocks(images))))
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; a shortcut where the shape stays.

    Args:
        entries: channels that come in.
        exits: channels that go out.
        stride: of the depthwise convolution.
        expansion: by which factor the inside is wider.
    """

    def __init__(self, entries: int, exits: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = entries * expansion
        widen = [_layer(conv1x1(entries, inner))] if expansion != 1 else []
        filter_each = _layer(conv3x3(inner, inner, stride, groups=inner))
        self.layers = nn.Sequential(*widen, filter_each, conv1x1(inner, exits), nn.BatchNorm2d(exits))
        self.has_shortcut = stride == 1 and entries == exits

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, exits, H / stride, W / stride)."""
        narrowed: Tensor = self.layers(features)
        return features + narrowed if self.has_shortcut else narrowed


def _layer(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6())


def _round(channels: float) -> int:
    """To a multiple of 8, never more than 10 % down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
