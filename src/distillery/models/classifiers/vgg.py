"""VGG with BatchNorm for small images."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.layers import GlobalAverage, conv3x3, initialise
from distillery.types import ImageSpec

_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
_WIDTHS = (1, 2, 4, 8, 8)


class VGGConfig(Config):
    """Settings of a VGG.

    Attributes:
        depth: 8, 11, 13 or 16, counted as in the paper (with its three linear layers).
        base_width: channels of the first stage; the others have 2x, 4x, 8x and 8x as many.
    """

    depth: Literal[8, 11, 13, 16]
    base_width: int = Field(default=64, ge=1)


class VGG(nn.Module):
    """Five stages of 3x3 convolutions with BatchNorm, each ending in a max pooling, then one linear layer on the mean.

    Args:
        config: its settings.
        spec: the images it gets; any size, because pooling rounds up.
        num_classes: K.

    Source:
        arXiv:1409.1556, table 1; one linear layer replaces its three, and convolutions have no bias, as is usual at 32 px.
    """

    def __init__(self, config: VGGConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        ends: list[str] = []
        entries = spec.channels
        for count, factor in zip(_CONVOLUTIONS[config.depth], _WIDTHS, strict=True):
            exits = factor * config.base_width
            for _ in range(count):
                layers += [conv3x3(entries, exits), nn.BatchNorm2d(exits), nn.ReLU()]
                entries = exits
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            ends.append(f"stages.{len(layers) - 1}")
        self.stage_outputs = tuple(ends)
        self.stages = nn.Sequential(*layers)
        self.pool = GlobalAverage()
        self.head = nn.Linear(entries, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        logits: Tensor = self.head(self.pool(self.stages(images)))
        return logits
