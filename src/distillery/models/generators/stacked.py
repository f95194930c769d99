"""Many generators as one network: a group of channels each, the same images as one after another."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models.generators.network import SLOPE, Generator
from distillery.numerics import clamp_through, full_precision

Slices = Sequence[range]


class StackedGenerator(nn.Module):
    """G generators of C channels as one of G * C: convolutions in groups, linear layers as one batched product, BatchNorm as it is.

    Each generator gets its own latents and gives its own images; none touches a weight or a statistic of another. They share a config and
    may differ in how many classes they have: the one-hot part is as long as the longest, and a weight that only ever meets zeros has no
    gradient, so Adam leaves it alone.

    A nearest upsampling and the 3x3 convolution after it are one transposed convolution of stride 2, see `upsampling_kernel`: 16
    products a small pixel instead of 36, 1.3 to 2.5 times as fast on a CPU as the two.

    Args:
        generators: of one config, which become its weights; at least one.
        slices: the classes of each, not empty.
    """

    mean: Tensor
    std: Tensor
    first_class: Tensor

    def __init__(self, generators: Sequence[Generator], slices: Slices) -> None:
        super().__init__()
        one = generators[0]
        self.config, self.spec, self.num = one.config, one.spec, len(generators)
        self.start, self.start_channels = one.start, one.start_channels
        self.condition_sizes = tuple(made.linear.in_features - made.latent_size for made in generators)
        with torch.device("meta"):  # no weights are drawn that are written over at once
            entries = one.latent_size + max(self.condition_sizes)
            self.linear = nn.Linear(entries, self.num * one.linear.out_features, bias=one.linear.bias is not None)
            self.norm = self._norms(one.norm)
            self.stages = nn.Sequential(*(self._grouped(layer) for layer in one.stages))
            self.last = self._grouped(one.last)
            if hasattr(one, "output_norm"):
                self.output_norm = self._norms(one.output_norm)
        self.to_empty(device=one.linear.weight.device)
        nn.init.zeros_(self.linear.weight)  # where a generator has fewer classes than another, nothing is copied into its last columns
        self.register_buffer("first_class", torch.tensor([classes.start for classes in slices]), persistent=False)
        if hasattr(one, "output_norm"):
            self.register_buffer("mean", one.mean.clone(), persistent=False)
            self.register_buffer("std", one.std.clone(), persistent=False)
        for index, made in enumerate(generators):
            self.load_generator(index, made.state_dict())

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images of latents.

        Args:
            z: (G*B, latent), standard normal, the generator outermost.
            labels: (G*B,) int64 classes, each of its generator's own; a generator of one class or without a condition ignores them.

        Returns:
            Images (G*B, C, H, W), float32 in [0, 1].
        """
        # the weights on the left: the gradient comes in their own order then, and is not copied into it
        features = torch.bmm(self.linear.weight.unflatten(0, (self.num, -1)), self._condition(z, labels).transpose(1, 2))
        if self.linear.bias is not None:
            features = features + self.linear.bias.view(self.num, -1, 1)
        features = features.permute(2, 0, 1).reshape(len(z) // self.num, -1, *self.start).contiguous(memory_format=torch.channels_last)
        features = self.norm(features)
        if self.config.name in ("conditional", "deep_conditional"):
            features = F.leaky_relu(features, SLOPE)
        for layer in self.stages:
            if isinstance(layer, nn.Conv2d):
                kernel = upsampling_kernel(layer.weight, self.num)
                features = F.conv_transpose2d(features, kernel, stride=2, padding=1, groups=self.num)
            elif isinstance(layer, nn.BatchNorm2d):
                features = F.leaky_relu(layer(features), SLOPE)
        raw = full_precision(self.last(features)[..., : self.spec.height, : self.spec.width])
        match self.config.output:
            case "sigmoid":
                return self._folded(torch.sigmoid(raw))
            case "tanh":
                return self._folded((torch.tanh(raw) + 1) / 2)
            case "batchnorm":
                normalised = self.output_norm(raw)
            case "tanh_batchnorm":
                normalised = self.output_norm(torch.tanh(raw))
        return clamp_through(self._folded(normalised) * self.std + self.mean)

    def rows(self, index: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One generator's part of tensors that are named and shaped as this network's state: views, named and shaped as its own state."""
        parts = {}
        for name, value in values.items():
            part = value.chunk(self.num)[index] if value.dim() else value  # a count of batches or steps is the same for all
            parts[name] = part[:, : self._entries(index)] if name == "linear.weight" and value.dim() else part
        return parts

    @torch.no_grad()
    def load_generator(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Copy the state of one generator, as `Generator.state_dict` gives it, into its place."""
        place = self.rows(index, self.state_dict())
        assert place.keys() == state.keys(), "generators of one config"
        for name, value in state.items():
            place[name].copy_(value)

    def _entries(self, index: int) -> int:
        return self.config.latent + self.condition_sizes[index]

    def _condition(self, z: Tensor, labels: Tensor) -> Tensor:
        """(G, B, latent + one-hot): the label counted from the generator's first class; zeros where there is no condition."""
        z = z.unflatten(0, (self.num, -1))
        length = max(self.condition_sizes)
        if not length:
            return z
        own = labels.unflatten(0, (self.num, -1)) - self.first_class[:, None]
        is_asked = torch.tensor(self.condition_sizes, device=z.device)[:, None, None] > 0
        shown = F.one_hot(own, length) * is_asked
        return torch.cat([z, self.config.condition_scale * shown.to(z.dtype)], dim=2)

    def _folded(self, images: Tensor) -> Tensor:
        """(B, G*C, H, W) as (G*B, C, H, W)."""
        folded: Tensor = images.unflatten(1, (self.num, -1)).transpose(0, 1).flatten(0, 1)
        return folded

    def _norms(self, norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(self.num * norm.num_features, eps=norm.eps, affine=norm.affine)

    def _grouped(self, layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.BatchNorm2d):
            return self._norms(layer)
        if isinstance(layer, nn.Conv2d):
            before, after = self.num * layer.in_channels, self.num * layer.out_channels
            return nn.Conv2d(before, after, 3, padding=1, bias=layer.bias is not None, groups=self.num)
        return layer


def upsampling_kernel(weight: Tensor, groups: int) -> Tensor:
    """The kernel with which a transposed convolution of stride 2 and padding 1 is a nearest upsampling and a 3x3 convolution.

        up(x) * w = sum over the four shifts of w that a doubled pixel meets,    k[i, j] = sum_{a, b in {0, 1}} w'[i - a, j - b]

    with w' the mirrored w, and zeros outside it.

    Args:
        weight: (G*O, I, 3, 3) of the convolution.
        groups: G.

    Returns:
        (G*I, O, 4, 4).
    """
    mirrored = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
    wide = F.pad(mirrored, (1, 1, 1, 1))
    rows = wide[:, :, :-1] + wide[:, :, 1:]
    return (rows[..., :-1] + rows[..., 1:]).contiguous(memory_format=torch.channels_last)
