"""The thin residual networks of three stages that CIFAR tables are made of."""

from functools import partial
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.layers import GlobalAverage, build_stages, conv1x1, conv3x3, initialise
from distillery.types import ImageSpec


class CifarResNetConfig(Config):
    """Settings of a CIFAR ResNet.

    Attributes:
        depth: 6n+2 layers for n blocks a stage.
        shortcut: where the shape changes: A pads with zero channels and has no weights, B projects with a 1x1 convolution.
        base_width: channels of the first stage; the others have 2x and 4x as many.
    """

    depth: int
    shortcut: Literal["A", "B"] = "B"
    base_width: int = Field(default=16, ge=1)

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if value < 8 or (value - 2) % 6:
            raise ValueError("depth must be 6n+2 with n of 1 or more")
        return value


class CifarResNet(nn.Module):
    """ResNet-(6n+2) of three stages of n basic blocks each.

    Args:
        config: its settings.
        spec: the images it gets; any size.
        num_classes: K.

    Source:
        arXiv:1512.03385, section 4.2.
    """

    def __init__(self, config: CifarResNetConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        width = config.base_width
        self.stem = nn.Sequential(conv3x3(spec.channels, width), nn.BatchNorm2d(width), nn.ReLU())
        stages = [((config.depth - 2) // 6, width * 2**stage) for stage in range(3)]
        self.blocks, ends = build_stages(width, stages, partial(BasicBlock, shortcut=config.shortcut))
        self.stage_outputs = ("stem", *ends)
        self.pool = GlobalAverage()
        self.head = nn.Linear(stages[-1][1], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        entries: channels that come in.
        exits: channels that go out.
        stride: of the first convolution and the shortcut.
        shortcut: A or B, used where the shape changes.
    """

    def __init__(self, entries: int, exits: int, stride: int, shortcut: Literal["A", "B"] = "B") -> None:
        super().__init__()
        self.conv1 = conv3x3(entries, exits, stride)
        self.norm1 = nn.BatchNorm2d(exits)
        self.conv2 = conv3x3(exits, exits)
        self.norm2 = nn.BatchNorm2d(exits)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or entries != exits:
            projection = nn.Sequential(conv1x1(entries, exits, stride), nn.BatchNorm2d(exits))
            self.shortcut = projection if shortcut == "B" else PaddedShortcut(exits - entries, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, exits, H / stride, W / stride)."""
        inner = F.relu(self.norm1(self.conv1(features)), inplace=True)
        inner = self.norm2(self.conv2(inner))
        return F.relu(inner + self.shortcut(features), inplace=True)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides of those that are there.

    Args:
        missing: how many channels to add.
        stride: which pixels to keep.
    """

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (missing // 2, missing - missing // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C + missing, H / stride, W / stride)."""
        return F.pad(features[..., :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
