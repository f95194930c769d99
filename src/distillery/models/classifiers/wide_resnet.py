"""Wide residual networks."""

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.layers import GlobalAverage, build_stages, conv1x1, conv3x3, initialise
from distillery.types import ImageSpec


class WideResNetConfig(Config):
    """Settings of a WRN-d-k.

    Attributes:
        depth: d = 6n+4 for n blocks a stage.
        widening: k.
        base_width: channels of the stem; the stages have k, 2k and 4k times as many.
    """

    depth: int
    widening: int = Field(ge=1)
    base_width: int = Field(default=16, ge=1)

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if value < 10 or (value - 4) % 6:
            raise ValueError("depth must be 6n+4 with n of 1 or more")
        return value


class WideResNet(nn.Module):
    """WRN-d-k: three stages of n pre-activated basic blocks, without dropout.

    Args:
        config: its settings.
        spec: the images it gets; any size.
        num_classes: K.

    Source:
        arXiv:1605.07146, table 1.
    """

    def __init__(self, config: WideResNetConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        self.stem = conv3x3(spec.channels, config.base_width)
        stages = [((config.depth - 4) // 6, config.base_width * config.widening * 2**stage) for stage in range(3)]
        self.blocks, ends = build_stages(config.base_width, stages, PreactivatedBlock)
        self.stage_outputs = ("stem", *ends)
        entries = stages[-1][1]
        self.norm = nn.BatchNorm2d(entries)
        self.pool = GlobalAverage()
        self.head = nn.Linear(entries, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        features = F.relu(self.norm(self.blocks(self.stem(images))), inplace=True)
        logits: Tensor = self.head(self.pool(features))
        return logits


class PreactivatedBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice; where the shape changes, the shortcut projects the activated input.

    Args:
        entries: channels that come in.
        exits: channels that go out.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, entries: int, exits: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(entries)
        self.conv1 = conv3x3(entries, exits, stride)
        self.norm2 = nn.BatchNorm2d(exits)
        self.conv2 = conv3x3(exits, exits)
        self.projection = conv1x1(entries, exits, stride) if stride != 1 or entries != exits else None

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, exits, H / stride, W / stride)."""
        active = F.relu(self.norm1(features), inplace=True)
        shortcut = features if self.projection is None else self.projection(active)
        inner = F.relu(self.norm2(self.conv1(active)), inplace=True)
        result: Tensor = self.conv2(inner) + shortcut
        return result
