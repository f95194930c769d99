"""Moments of a teacher: global ones from its BatchNorm buffers, per-class ones measured on labelled images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.statistics.modes import eval_mode
from distillery.statistics.moments import Moments
from distillery.statistics.taps import batchnorm_paths, tap_inputs
from distillery.types import Classifier


class RunningMoments:
    """Mean and variance of groups, accumulated batch by batch in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque: with n, mu and M2 = sum (x - mu)^2 of two parts a and b and
    d = mu_b - mu_a, M2 = M2_a + M2_b + d^2 n_a n_b / n. Unlike E[x^2] - E[x]^2 it loses no digits where |mu| is much larger than sigma.

    Args:
        groups: K.
        channels: C.
        device: where the sums stay.

    Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
    """

    def __init__(self, groups: int, channels: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros(groups, 1, dtype=torch.float64, device=device)
        self.mean = torch.zeros(groups, channels, dtype=torch.float64, device=device)
        self.squares = torch.zeros(groups, channels, dtype=torch.float64, device=device)

    def update(self, values: Tensor, groups: Tensor) -> None:
        """Add a batch.

        Args:
            values: (N, C, H, W); the moments are over N, H and W.
            groups: (N,) int64, which group each image belongs to.
        """
        flat = values.detach().double().flatten(2)
        pixels = flat.shape[2]
        image_mean = flat.mean(2)
        image_squares = (flat - image_mean[:, :, None]).square().sum(2)
        member = torch.nn.functional.one_hot(groups, len(self.count)).to(flat).T
        images = member.sum(1, keepdim=True)
        mean = member @ image_mean / images.clamp(min=1)
        squares = member @ (image_squares + pixels * (image_mean - mean[groups]).square())
        self._merge(images * pixels, mean, squares)

    def merged(self) -> "RunningMoments":
        """All groups as one."""
        whole = RunningMoments(1, self.mean.shape[1], self.mean.device)
        for count, mean, squares in zip(self.count, self.mean, self.squares, strict=True):
            whole._merge(count[None], mean[None], squares[None])
        return whole

    def variance(self) -> Tensor:
        """Unbiased variance (K, C), float64; NaN where a group has fewer than two values."""
        freedom = self.count - 1
        return self.squares / freedom.where(freedom > 0, torch.nan)

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        self.squares += squares + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count += count


def global_moments(classifier: Classifier, teacher_sha256: str) -> Moments:
    """The running statistics that every BatchNorm2d gathered while the teacher was trained; needs no data.

    Args:
        classifier: the teacher; it is only read.
        teacher_sha256: its bundle.

    Returns:
        Moments of kind global, (C,) a layer, copies of the buffers.

    Raises:
        ConfigError: the teacher has no BatchNorm2d with running statistics.
    """
    modules = dict(classifier.named_modules())
    paths = _paths(classifier)
    mean = {path: _buffer(modules[path].running_mean) for path in paths}
    variance = {path: _buffer(modules[path].running_var) for path in paths}
    return Moments("global", mean, variance, teacher_sha256)


@torch.no_grad()
def class_moments(classifier: Classifier, images: Tensor, labels: Tensor, teacher_sha256: str, batch: int = 256) -> Moments:
    """Moments of the input of every BatchNorm2d over the images of each class, in eval mode.

    Args:
        classifier: the teacher, on any device; modes, buffers and hooks are as before afterwards.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        teacher_sha256: its bundle.
        batch: images a forward pass; changes the result by rounding only.

    Returns:
        Moments of kind per_class, (K, C) a layer in the layer's own dtype.

    Raises:
        ConfigError: no BatchNorm2d; no images at all; images or labels that do not fit; a class with no images or too few.
    """
    paths = _paths(classifier)
    if images.shape[1:] != classifier.spec.shape:  # a single channel would silently broadcast
        raise ConfigError(f"Images of shape {tuple(images.shape[1:])} do not fit the teacher: give (C, H, W) = {classifier.spec.shape}.")
    counts = _count(images, labels, classifier.class_names)
    device = classifier.mean.device
    running: dict[str, RunningMoments] = {}
    with eval_mode(classifier), tap_inputs(classifier, paths) as inputs:
        for start in range(0, len(images), batch):
            groups = labels[start : start + batch].to(device)
            classifier(images[start : start + batch].to(device).float() / 255)
            for path in paths:
                if path not in running:
                    running[path] = RunningMoments(len(counts), inputs[path].shape[1], device)
                running[path].update(inputs[path], groups)
            inputs.clear()
    modules = dict(classifier.named_modules())
    mean = {path: value.mean.to(modules[path].running_mean.dtype) for path, value in running.items()}
    variance = {path: value.variance().to(modules[path].running_var.dtype) for path, value in running.items()}
    if any(value.isnan().any() for value in variance.values()):
        raise ConfigError("One image of a class has no variance in a layer with 1x1 maps: give at least 2 images of every class.")
    return Moments("per_class", mean, variance, teacher_sha256, counts)


def _paths(classifier: Classifier) -> list[str]:
    paths = batchnorm_paths(classifier)
    if not paths:
        raise ConfigError(
            "The teacher has no BatchNorm2d layer with running statistics, so it holds no moments: "
            "use a method that needs none, or a teacher with BatchNorm2d."
        )
    return paths


def _buffer(value: Tensor) -> Tensor:
    return value.detach().clone()


def _count(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> Tensor:
    if images.dtype != torch.uint8 or len(images) != len(labels):
        raise ConfigError(f"{len(images)} images of {images.dtype} with {len(labels)} labels do not fit: give uint8 and a label each.")
    if not len(images):
        raise ConfigError("There are no images to measure per-class moments on: give labelled images of every class.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        given = f"{int(labels.min())} to {int(labels.max())}"
        raise ConfigError(f"Labels go from {given}, but the teacher knows classes 0 to {len(class_names) - 1}: check the labels.")
    counts = labels.bincount(minlength=len(class_names)).cpu()
    empty = [name for name, count in zip(class_names, counts.tolist(), strict=True) if not count]
    if empty:
        raise ConfigError(f"No images of class {', '.join(empty[:5])} were given: per-class moments need images of every class.")
    return counts
