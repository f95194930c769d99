"""Moments of a teacher: global ones from its BatchNorm buffers, per-class ones measured on labelled images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.grammar import counted
from distillery.numerics import exact
from distillery.statistics.counts import check_every_class
from distillery.statistics.layers import Layers, find_layers, statistics_of
from distillery.statistics.modes import eval_mode
from distillery.statistics.moments import Moments
from distillery.statistics.taps import tap_inputs, visited_path
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
        present, place = groups.unique(return_inverse=True)  # of many groups a batch holds few
        # a product, not `index_add_`: that adds in an order of its own on CUDA, and equal images are to give equal bytes
        member = torch.nn.functional.one_hot(place, len(present)).to(flat).T
        images = member.sum(1, keepdim=True)
        mean = member @ image_mean / images
        # a group's sum of squares: that within its images, and that of the images' means around the group's
        squares = member @ (image_squares + pixels * (image_mean - mean[place]).square())
        self._merge(present, images * pixels, mean, squares)

    def merged(self) -> "RunningMoments":
        """All groups as one."""
        whole = RunningMoments(1, self.mean.shape[1], self.mean.device)
        for count, mean, squares in zip(self.count, self.mean, self.squares, strict=True):
            whole._merge(torch.zeros(1, dtype=torch.int64, device=mean.device), count[None], mean[None], squares[None])
        return whole

    def variance(self) -> Tensor:
        """Unbiased variance (K, C), float64; NaN where a group has fewer than two values."""
        freedom = self.count - 1
        return self.squares / freedom.where(freedom > 0, torch.nan)

    def _merge(self, groups: Tensor, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Add to some groups, each named once."""
        before = self.count[groups]
        # of two empty parts 0 / 1 and not 0 / 0
        total = (before + count).clamp(min=1)
        delta = mean - self.mean[groups]
        self.squares[groups] += squares + delta.square() * before * count / total
        self.mean[groups] += delta * count / total
        self.count[groups] = before + count


def global_moments(classifier: Classifier, teacher_sha256: str, layers: Layers | None = None) -> Moments:
    """The running statistics of every layer that a forward pass visits, gathered while the teacher was trained; needs no data.

    Args:
        classifier: the teacher; as before afterwards.
        teacher_sha256: its bundle.
        layers: of the teacher, as `find_layers` gives them, where that was asked already.

    Returns:
        Moments of kind global, (C,) a visit, copies of the buffers; a layer that is visited twice has its own twice.

    Raises:
        ConfigError: the teacher has no layer with moments, see `find_layers`.
    """
    found = _visits(classifier, layers)
    mean = {key: value[0].detach().clone() for key, value in found.items()}
    variance = {key: value[1].detach().clone() for key, value in found.items()}
    return Moments("global", mean, variance, teacher_sha256)


@torch.no_grad()
def class_moments(classifier: Classifier, images: Tensor, labels: Tensor, teacher_sha256: str, batch: int = 256) -> Moments:
    """Moments of the input of every layer with running statistics over the images of each class, in eval mode.

    Args:
        classifier: the teacher, on any device; modes, buffers and hooks are as before afterwards.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        teacher_sha256: its bundle.
        batch: images a forward pass; changes the result by rounding only.

    Returns:
        Moments of kind per_class, (K, C) a visit in the layer's own dtype.

    Raises:
        ConfigError: no layer with moments; no images at all; images or labels that do not fit; a class with no images or too few; a
            layer that sees another number of maps than there are images.
    """
    found = _visits(classifier)
    if images.shape[1:] != classifier.spec.shape:  # a single channel would silently broadcast
        raise ConfigError(f"Images of shape {tuple(images.shape[1:])} do not fit the teacher: give (C, H, W) = {classifier.spec.shape}.")
    counts = _count(images, labels, classifier.class_names)
    device = classifier.mean.device
    running = {key: RunningMoments(len(counts), len(mean), device) for key, (mean, _) in found.items()}
    visited = list(dict.fromkeys(map(visited_path, found)))
    # in eval mode a layer's input depends on its own image alone; in train mode it would be normalised by the others of the batch, and
    # the buffers that are read as global moments would move
    with eval_mode(classifier), exact(device), tap_inputs(classifier, visited) as inputs:
        for start in range(0, len(images), batch):
            groups = labels[start : start + batch].to(device)
            classifier(images[start : start + batch].to(device).float() / 255)
            for key in found:
                if len(inputs[key]) != len(groups):
                    maps = f"{counted(len(inputs[key]), 'map')} of {counted(len(groups), 'image')}"
                    raise ConfigError(f"The layer {key!r} sees {maps}, so none is of one image's class: take global moments.")
                running[key].update(inputs[key], groups)
    # rounded once, after all sums
    mean = {key: value.mean.to(found[key][0].dtype) for key, value in running.items()}
    variance = {key: value.variance().to(found[key][1].dtype) for key, value in running.items()}
    if any(value.isnan().any() for value in variance.values()):
        raise ConfigError("One image of a class has no variance in a layer with 1x1 maps: give at least 2 images of every class.")
    return Moments("per_class", mean, variance, teacher_sha256, counts)


def _visits(classifier: Classifier, layers: Layers | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Running mean and variance (C,) of every visit's layer, by the visit's name."""
    layers = layers or find_layers(classifier)
    if not layers.visits:
        raise ConfigError(
            f"The teacher has no BatchNorm2d layer with running statistics{layers.exceptions()}, so it holds no moments: "
            "use a method that needs none, or a teacher with BatchNorm2d."
        )
    modules = dict(classifier.named_modules())
    found = {}
    for key in layers.visits:
        statistics = statistics_of(modules[visited_path(key)])
        assert statistics is not None, f"find_layers names {key}"
        found[key] = statistics
    return found


def _count(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> Tensor:
    if images.dtype != torch.uint8 or len(images) != len(labels):
        raise ConfigError(
            f"{counted(len(images), 'image')} of {images.dtype} with {counted(len(labels), 'label')} do not fit: give uint8, a label each."
        )
    if not len(images):
        raise ConfigError("There are no images to measure per-class moments on: give labelled images of every class.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        given = f"{int(labels.min())} to {int(labels.max())}"
        raise ConfigError(f"Labels go from {given}, but the teacher knows classes 0 to {len(class_names) - 1}: check the labels.")
    counts = labels.bincount(minlength=len(class_names)).cpu()
    check_every_class(counts.tolist(), class_names)
    return counts
