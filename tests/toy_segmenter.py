"""A task that the product does not distil, small enough to prove where tasks differ: a class for each pixel."""

import torch
from torch import Tensor, nn

from distillery.data.pool import dequantize
from distillery.engine.labelling import Labeller
from distillery.engine.selection import Score
from distillery.numerics import exact
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=1, height=4, width=4, mean=(0.0,), std=(1.0,))
NAMES = ("dark", "grey", "bright")


class Shades(nn.Module):
    """Logits (N, 3, H, W): each pixel is of the shade that it is nearest to."""

    def __init__(self) -> None:
        super().__init__()
        self.shades = nn.Parameter(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Minus the distance from each shade."""
        return -(images - self.shades).abs()


def segmenter() -> Classifier:
    """A teacher, frozen."""
    return Classifier(Shades(), SPEC, NAMES, task="segmentation").freeze()


class SegmentationLabeller(Labeller):
    """Stores the argmax of each pixel; an image counts for every class in it; agreement is a share of pixels."""

    @torch.no_grad()
    def label(self, teacher: Classifier, images: Tensor) -> Tensor:
        """(N, H, W) uint8."""
        with exact(teacher.mean.device):
            found: Tensor = teacher(dequantize(images)).argmax(1).to(torch.uint8)
        return found

    def none(self, teacher: Classifier) -> Tensor:
        """(0, H, W) uint8."""
        return torch.empty((0, *teacher.spec.shape[1:]), dtype=torch.uint8)

    def compare(self, stored: Tensor, answers: Tensor) -> Score:
        """Pixels of one argmax; how sure the teacher was is not stored, so nothing is said of KL."""
        return Score(stored.numel(), int((stored == answers.argmax(1)).sum()))
