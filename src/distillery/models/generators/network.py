"""The generators: a linear layer to a small map, then upsamplings with convolutions to the image's size, two or five of them."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.models.generators.config import GeneratorConfig
from distillery.numerics import clamp_through, full_precision
from distillery.types import ImageSpec

SLOPE = 0.2
"""Of every LeakyReLU, in both families."""
_DEVIATION = 0.02

# Channels from the smallest map to full size, each twice as large as the one before, in units of the width.
_STAGES = {"generator": (2, 2, 1), "large_generator": (4, 2, 1), "conditional": (2, 2, 1), "deep_conditional": (1, 1, 1, 1, 1, 1)}


class Generator(nn.Module):
    """Maps latents, and labels where it is conditional, to images in [0, 1].

    A size that is no multiple of 4 (of 32 for deep_conditional) is generated at the next one and cropped at the lower right. One that
    ends in a BatchNorm makes values of about mean 0 and variance 1 a channel, what a teacher sees once it has normalised; they leave as

        x = clamp(std * BN(raw) + mean, 0, 1),    dx/dBN = std also where it clamps

    because a pixel that the clamp stopped would never be told to come back.

    Args:
        config: its settings.
        spec: shape of the images; its mean and std are the teacher's, and count for an output with a BatchNorm alone.
        num_classes: K, the length of the one-hot part.

    Source:
        generator, large_generator: arXiv:2105.08584 (CMI) and arXiv:2112.07327 (FastDFKD). conditional, deep_conditional:
        arXiv:2012.05578 (LS-GDFD), with PyTorch's epsilon in every BatchNorm instead of 0.8 in the later ones (`norm_epsilon`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: GeneratorConfig, spec: ImageSpec, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.num_classes = num_classes
        self.latent_size = config.latent
        channels = [factor * config.width for factor in _STAGES[config.name]]
        growth = 2 ** (len(channels) - 1)
        self.start = (math.ceil(spec.height / growth), math.ceil(spec.width / growth))
        self.start_channels = channels[0]
        entries = config.latent + (num_classes if config.condition == "one_hot" else 0)
        is_conditional = config.name in ("conditional", "deep_conditional")
        self.linear = nn.Linear(entries, channels[0] * self.start[0] * self.start[1], bias=not is_conditional)
        self.norm = nn.BatchNorm2d(channels[0])
        self.activation = nn.LeakyReLU(SLOPE, inplace=True) if is_conditional else nn.Identity()
        self.stages = nn.Sequential(*_stages(channels, config.norm_epsilon))
        self.last = nn.Conv2d(channels[-1], spec.channels, 3, padding=1)
        if config.output in ("batchnorm", "tanh_batchnorm"):
            self.output_norm = nn.BatchNorm2d(spec.channels, affine=config.output == "batchnorm")
            for name, values in (("mean", spec.mean), ("std", spec.std)):
                self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        if config.initialisation == "normal":
            self.apply(_initialise)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of latents.

        Args:
            z: (N, latent_size), standard normal.
            labels: (N,) int64 asked classes; ignored by a generator without a condition.

        Returns:
            Images (N, C, H, W), float32 in [0, 1], also under autocast.

        Raises:
            ConfigError: a conditional generator got no labels.
        """
        features = self.linear(self._condition(z, labels)).view(len(z), self.start_channels, *self.start)
        features = self.stages(self.activation(self.norm(features)))
        raw = full_precision(self.last(features)[..., : self.spec.height, : self.spec.width])
        match self.config.output:
            case "sigmoid":
                return torch.sigmoid(raw)
            case "tanh":
                return (torch.tanh(raw) + 1) / 2
            case "batchnorm":
                normalised = self.output_norm(raw)
            case "tanh_batchnorm":
                normalised = self.output_norm(torch.tanh(raw))
        return clamp_through(normalised * self.std + self.mean)

    def first_layers(self) -> tuple[nn.Linear, nn.BatchNorm2d]:
        """The linear layer, and the BatchNorm that follows it."""
        return self.linear, self.norm

    @torch.no_grad()
    def reset_first_layers(self, mode: Literal["first_layer", "first_layer_and_norm"], generator: torch.Generator) -> None:
        """Draw the first layers anew, in place.

        Args:
            mode: first_layer draws the linear weights from N(0, 0.02) and zeroes the bias. first_layer_and_norm does the same to the scale
                and shift of the BatchNorm after it, as the reference code does: a scale around 0 rather than 1, of random sign.
            generator: stream to draw from, on any device.

        Source:
            arXiv:2112.07327, reset_l0 of the reference code.
        """
        layers: tuple[nn.Linear | nn.BatchNorm2d, ...] = (self.linear, self.norm) if mode == "first_layer_and_norm" else (self.linear,)
        for layer in layers:
            drawn = torch.randn(layer.weight.shape, generator=generator, device=generator.device)
            layer.weight.copy_(_DEVIATION * drawn)
            if layer.bias is not None:
                layer.bias.zero_()

    def _condition(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if self.config.condition == "none":
            return z
        if labels is None:
            raise ConfigError(f"The generator {self.config.name!r} has condition = 'one_hot' but got no labels: give one an image.")
        return torch.cat([z, self.config.condition_scale * F.one_hot(labels, self.num_classes).to(z.dtype)], dim=1)


def build_generator(config: GeneratorConfig, spec: ImageSpec, num_classes: int) -> Generator:
    """A generator with fresh weights, drawn from torch's global stream.

    Args:
        config: its settings.
        spec: shape of the images it makes.
        num_classes: K, how many classes can be asked for.
    """
    return Generator(config, spec, num_classes)


def _stages(channels: list[int], epsilon: float) -> Iterator[nn.Module]:
    for before, after in pairwise(channels):
        yield nn.Upsample(scale_factor=2)
        yield nn.Conv2d(before, after, 3, padding=1, bias=False)
        yield nn.BatchNorm2d(after, eps=epsilon)
        yield nn.LeakyReLU(SLOPE, inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, _DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, _DEVIATION)
        nn.init.zeros_(module.bias)
