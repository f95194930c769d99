"""The values that cross every border: images in [0, 1], and a classifier that normalises for itself."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.foreign_code import guarded

MemoryFormat = Literal["channels_last", "contiguous"]
"""Order in which a network gets its images: the fastest, or the only one that some networks take."""


Task = Literal["classification", "segmentation"]
"""What a network answers: a class for each image, or one for each of its pixels."""


class ImageSpec(Config):
    """What a classifier expects to see: shape, and the constants it normalises with."""

    channels: int = Field(ge=1, le=64)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _one_constant_a_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values but the images have {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError(f"every std must be above 0, got {list(self.std)}")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W), float32 in [0, 1], and the labels (N,) int64 they were asked for, or None where the method has no classes."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


class Classifier(nn.Module):
    """A network that owns its normalisation.

    Pixels float32 in [0, 1], (N, C, H, W), go in; logits (N, K) come out. Features are reached through `statistics.taps` by module
    path only, so any `nn.Module` is a teacher without edits.

    Args:
        network: maps normalised images to logits.
        spec: the images it expects.
        class_names: one a class, in the order of the logits.
        memory_format: channels_last, the fastest order of images in memory; contiguous for a network that fails on it, say for
            `x.view(n, -1)`. Whoever makes images for a classifier asks `arrange`; what a contiguous network gets is contiguous anyway.
        task: what it answers; of a segmenter the logits are (N, K, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        spec: ImageSpec,
        class_names: tuple[str, ...],
        memory_format: MemoryFormat = "channels_last",
        task: Task = "classification",
    ) -> None:
        super().__init__()
        if len(class_names) < 2:
            raise ConfigError(f"A classifier needs at least 2 classes, got {len(class_names)}: name every class.")
        self.network = network
        self.spec = spec
        self.class_names = class_names
        self.memory_format: MemoryFormat = memory_format
        self.task: Task = task
        self._is_ours = type(network).__module__.startswith("distillery.")
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return len(self.class_names)

    def arrange(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in the order in memory that suits the network."""
        return images.contiguous(memory_format=torch.channels_last) if self.memory_format == "channels_last" else images.contiguous()

    def prepare(self, images: Tensor) -> Tensor:
        """What the network gets: images (N, C, H, W) in [0, 1], normalised, and contiguous where it takes nothing else."""
        normalised = (images - self.mean) / self.std
        if self.memory_format == "channels_last":
            return normalised
        # no `contiguous()`, which leaves the strides of a single channel as they are: convolutions go by strides
        return normalised.clone(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            ConfigError: another number of channels, which broadcasting would otherwise hide; a network that is not ours fails.
        """
        if images.shape[1] != self.spec.channels:
            raise ConfigError(f"Images have {images.shape[1]} channels but the classifier takes {self.spec.channels}: convert them first.")
        prepared = self.prepare(images)
        what = f"{type(self.network).__name__} fails on images of {'x'.join(map(str, images.shape[1:]))}"
        with guarded(what, "run it by itself on such images, and import it again", only_memory=self._is_ours):
            logits: Tensor = self.network(prepared)
        if isinstance(logits, Tensor) and logits.is_inference() and not torch.is_inference_mode_enabled():
            return logits.clone()  # of a forward under inference_mode: autograd refuses to keep such a tensor for a student's loss
        return logits

    def freeze(self) -> Self:
        """Put the classifier in eval mode and stop gradients to its weights: an unfrozen teacher makes synthesis 1.8x slower."""
        return self.requires_grad_(False).eval()
