"""LeNet-5 and its half."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillery.config import Config
from distillery.models.classifiers.layers import GlobalAverage, initialise
from distillery.types import ImageSpec

_SIZE = 32  # what the paper pads its digits to; below it the third convolution finds no window


class LeNetConfig(Config):
    """Settings of a LeNet-5.

    Attributes:
        half: half the channels in every layer.
        batch_norm: a BatchNorm after each convolution; without it a teacher has no moments to match.
    """

    half: bool = False
    batch_norm: bool = False


class LeNet(nn.Module):
    """Three 5x5 convolutions (6, 16, 120 channels) with ReLU and max pooling between them, then linear layers of 84 and K.

    Args:
        config: its settings.
        spec: the images it gets; smaller than 32 px they are padded to it, larger ones are averaged at the end.
        num_classes: K.

    Source:
        LeCun et al., 1998, section II.B; ReLU, max pooling and a plain linear output as DAFL has them (arXiv:1904.01186).
    """

    def __init__(self, config: LeNetConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        widths = (3, 8, 60, 42) if config.half else (6, 16, 120, 84)
        above, below = _split(_SIZE - spec.height)
        left, right = _split(_SIZE - spec.width)
        self.padding = (left, right, above, below)
        layers: list[nn.Module] = []
        ends: list[str] = []
        entries = spec.channels
        for index, exits in enumerate(widths[:3]):
            layers.append(nn.Conv2d(entries, exits, 5, bias=not config.batch_norm))
            layers += [nn.BatchNorm2d(exits)] if config.batch_norm else []
            layers += [nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index < 2 else []
            ends.append(f"stages.{len(layers) - 1}")
            entries = exits
        self.stage_outputs = tuple(ends)
        self.stages = nn.Sequential(*layers)
        self.pool = GlobalAverage()
        self.hidden = nn.Linear(entries, widths[3])
        self.head = nn.Linear(widths[3], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        features = self.pool(self.stages(F.pad(images, self.padding)))
        logits: Tensor = self.head(F.relu(self.hidden(features), inplace=True))
        return logits


def _split(missing: int) -> tuple[int, int]:
    missing = max(0, missing)
    return missing // 2, missing - missing // 2
