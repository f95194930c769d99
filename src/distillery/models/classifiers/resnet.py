"""Residual networks of four stages with a stem for small images."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.cifar_resnet import BasicBlock
from distillery.models.classifiers.layers import GlobalAverage, build_stages, conv1x1, conv3x3, initialise
from distillery.types import ImageSpec

_BLOCKS = {18: (2, 2, 2, 2), 20: (2, 2, 3, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ResNetConfig(Config):
    """Settings of a ResNet of four stages.

    Attributes:
        depth: 18, 20 and 34 have basic blocks, 50 has bottlenecks.
        base_width: channels of the first stage; the others have 2x, 4x and 8x as many.
    """

    depth: Literal[18, 20, 34, 50]
    base_width: int = Field(default=64, ge=1)


class ResNet(nn.Module):
    """ResNet-18, -20, -34 or -50 with a 3x3 stem at stride 1 and no max pooling, so that 32 px end at 4 px.

    Args:
        config: its settings.
        spec: the images it gets; any size.
        num_classes: K.

    Source:
        arXiv:1512.03385, table 1; the stem is the one that CIFAR users of it agree on. ResNet-20 of four stages is a student of FSP's
        transfer experiment (CVPR 2017), whose blocks we could not find: ours are 2, 2, 3 and 2, about in the proportions of ResNet-34's.
    """

    def __init__(self, config: ResNetConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        width = config.base_width
        self.stem = nn.Sequential(conv3x3(spec.channels, width), nn.BatchNorm2d(width), nn.ReLU())
        block, expansion = (Bottleneck, Bottleneck.expansion) if config.depth == 50 else (BasicBlock, 1)
        stages = [(count, width * 2**stage * expansion) for stage, count in enumerate(_BLOCKS[config.depth])]
        self.blocks, ends = build_stages(width, stages, block)
        self.stage_outputs = ("stem", *ends)
        self.pool = GlobalAverage()
        self.head = nn.Linear(stages[-1][1], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))))
        return logits


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a widening 1x1 convolution beside a shortcut; the stride stands in the 3x3.

    Args:
        entries: channels that come in.
        exits: channels that go out, four times those of the 3x3.
        stride: of the 3x3 and the shortcut.
    """

    expansion = 4

    def __init__(self, entries: int, exits: int, stride: int) -> None:
        super().__init__()
        inner = exits // self.expansion
        self.conv1 = conv1x1(entries, inner)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, exits)
        self.norm3 = nn.BatchNorm2d(exits)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or entries != exits:
            self.shortcut = nn.Sequential(conv1x1(entries, exits, stride), nn.BatchNorm2d(exits))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, exits, H / stride, W / stride)."""
        inner = F.relu(self.norm1(self.conv1(features)), inplace=True)
        inner = F.relu(self.norm2(self.conv2(inner)), inplace=True)
        return F.relu(self.norm3(self.conv3(inner)) + self.shortcut(features), inplace=True)
