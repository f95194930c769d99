"""Moment matching against a teacher: one forward pass gives logits and the statistics of every tapped layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distillery.errors import ConfigError
from distillery.losses.moments import LayerMoments, batch_moments, blend, moment_distance
from distillery.statistics.moments import Moments
from distillery.statistics.taps import tap_inputs, visited_path
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier


def build_matcher(method: str, weight: float, ingredients: Ingredients, momentum: float = 0.0, by_class: bool = False) -> "MomentMatcher":
    """The matcher of a method; one that taps nothing where its weight is 0.

    Args:
        method: name for the message.
        weight: of the moments term.
        ingredients: teacher and moments.
        momentum: see `MomentMatcher`.
        by_class: the method tells `MomentMatcher.distance` the class of each group of images, so that it can match moments of classes.

    Raises:
        ConfigError: a weight above 0 without moments to match, or with those of classes where batches are not ordered by class.
    """
    if weight == 0:
        return MomentMatcher(ingredients.teacher, None, momentum)
    if ingredients.moments is None or not ingredients.moments.mean:
        raise ConfigError(
            f"{method} needs the teacher's moments and got none: extract its statistics first, "
            "or set moments_weight to 0 where the teacher has no BatchNorm2d."
        )
    if ingredients.moments.kind != "global" and not by_class:
        raise ConfigError(
            f"{method} matches a teacher's global moments and got moments of kind {ingredients.moments.kind}: extract its statistics "
            "without labelled images."
        )
    return MomentMatcher(ingredients.teacher, ingredients.moments, momentum)


class MomentMatcher:
    """The teacher's logits of a batch, and the distance of its channel statistics from the recorded ones.

    A batch may hold several groups of images, as in `losses/moments.py`: G generators trained as one, or images ordered by class. Each
    group is measured by itself. Targets of classes need to know whose: `labels` names one class a group, so a generator of all classes
    draws G classes with B images each, a stack of generators names that of each generator, and an inversion of one class is one group.

    Args:
        teacher: frozen classifier.
        moments: statistics of its BatchNorm inputs, global or of classes; None taps no layer.
        momentum: m of the running average that is compared with the targets; 0 compares the batch alone. Each group has its own, so a
            group must keep its class.
    """

    def __init__(self, teacher: Classifier, moments: Moments | None, momentum: float = 0.0) -> None:
        self._teacher = teacher
        self._moments = Moments("global", {}, {}, "") if moments is None else moments.to(teacher.mean.device)
        self._keys = list(self._moments.mean)
        self._paths = list(dict.fromkeys(map(visited_path, self._keys)))
        self._momentum = momentum
        self._past: list[LayerMoments] = []

    def observe(self, images: Tensor, groups: int = 1) -> tuple[Tensor, list[LayerMoments]]:
        """Logits and batch statistics of one pass.

        Args:
            images: (G*B, C, H, W) in [0, 1], the group outermost.
            groups: G.

        Returns:
            Logits (G*B, K), and the statistics visit by visit: (C,) of one group, (G, C) of several.

        Raises:
            ConfigError: the pass visits other layers, or one of them another number of times, than the moments are of; or a layer gets
                a batch that cannot be told apart into the groups.
        """
        with tap_inputs(self._teacher, self._paths) as seen:
            logits: Tensor = self._teacher(images)
            if len(seen.keys) > len(self._keys):
                raise ConfigError(
                    f"The teacher visits {next(key for key in seen.keys if key not in self._keys)!r} beyond what its moments are of: "
                    "extract its statistics again, and take another method where what its network runs depends on the images."
                )
            for key in self._keys:
                if len(seen[key]) % groups:
                    raise ConfigError(
                        f"The layer {key!r} of the teacher gets a batch of {len(seen[key])} for {len(images)} images, which is no {groups} "
                        "groups of equal size: train its generators one at a time."
                    )
            return logits, [batch_moments(seen[key], groups) for key in self._keys]

    def distance(self, batch: list[LayerMoments], labels: Tensor | None = None, first: float = 1.0) -> Tensor:
        """Distance of the statistics, blended with the running average where there is one, from the teacher's; summed over groups.

        Args:
            batch: what `observe` gave.
            labels: (G,) int64 in [0, K), the class of each group; not checked, which would make the device wait. Targets that are global
                do not look at it.
            first: factor on the share of the layer that is visited first.

        Returns:
            A scalar, at least 0.

        Raises:
            ConfigError: the targets are of classes and nobody said which.
        """
        if self._past:
            batch = [blend(now, past, self._momentum) for now, past in zip(batch, self._past, strict=True)]
        return moment_distance(batch, self._targets(batch, labels), first)

    def _targets(self, batch: list[LayerMoments], labels: Tensor | None) -> list[LayerMoments]:
        wanted = self._moments
        if wanted.kind == "per_class":
            if labels is None:
                raise ConfigError(
                    "The moments to match are those of classes, and the method does not say which class each image is of: extract the "
                    "teacher's statistics without labelled images."
                )
            assert all(layer.mean.numel() == len(labels) * layer.mean.shape[-1] for layer in batch), "one class a group"
            # labels are drawn on the CPU: the copy does not make it wait for the device
            wanted = wanted.select(labels.to(self._teacher.mean.device, non_blocking=True))
        return [LayerMoments(wanted.mean[key], wanted.variance[key]) for key in self._keys]

    def remember(self, batch: list[LayerMoments]) -> None:
        """Move the running average once; the first call starts it from the batch itself.

        Args:
            batch: what `observe` gave; its graph is let go.
        """
        if self._momentum == 0:
            return
        # detached, or each round would hold the graphs of all before it
        now = [LayerMoments(layer.mean.detach(), layer.variance.detach()) for layer in batch]
        self._past = [blend(layer, past, self._momentum) for layer, past in zip(now, self._past, strict=True)] if self._past else now

    def state_dict(self) -> dict[str, Any]:
        """The running average, visit by visit."""
        return {key: {"mean": layer.mean, "variance": layer.variance} for key, layer in zip(self._keys, self._past, strict=False)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; an empty one means that nothing was remembered yet."""
        device = self._teacher.mean.device
        self._past = [LayerMoments(state[key]["mean"].to(device), state[key]["variance"].to(device)) for key in self._keys if key in state]
