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


def build_matcher(method: str, weight: float, ingredients: Ingredients, momentum: float = 0.0) -> "MomentMatcher":
    """The matcher of a method; one that taps nothing where its weight is 0.

    Args:
        method: name for the message.
        weight: of the moments term.
        ingredients: teacher and moments.
        momentum: see `MomentMatcher`.

    Raises:
        ConfigError: a weight above 0 without moments to match, or with those of classes.
    """
    if weight == 0:
        return MomentMatcher(ingredients.teacher, None, momentum)
    if ingredients.moments is None or not ingredients.moments.mean:
        raise ConfigError(
            f"{method} needs the teacher's moments and got none: extract its statistics first, "
            "or set moments_weight to 0 where the teacher has no BatchNorm2d."
        )
    if ingredients.moments.kind != "global":
        raise ConfigError(
            f"{method} matches a teacher's global moments and got moments of kind {ingredients.moments.kind}: extract its statistics "
            "without labelled images."
        )
    return MomentMatcher(ingredients.teacher, ingredients.moments, momentum)


class MomentMatcher:
    """The teacher's logits of a batch, and the distance of its channel statistics from the recorded ones.

    Args:
        teacher: frozen classifier.
        moments: global statistics of its BatchNorm inputs; None taps no layer.
        momentum: m of the running average that is compared with the targets; 0 compares the batch alone.
    """

    def __init__(self, teacher: Classifier, moments: Moments | None, momentum: float = 0.0) -> None:
        self._teacher = teacher
        here = Moments("global", {}, {}, "") if moments is None else moments.to(teacher.mean.device)
        self._keys = list(here.mean)
        self._paths = list(dict.fromkeys(map(visited_path, self._keys)))
        self._targets = [LayerMoments(here.mean[key], here.variance[key]) for key in self._keys]
        self._momentum = momentum
        self._past: list[LayerMoments] = []

    def observe(self, images: Tensor) -> tuple[Tensor, list[LayerMoments]]:
        """Logits (N, K) of images (N, C, H, W) in [0, 1], and the batch statistics visit by visit.

        Raises:
            ConfigError: the pass visits other layers, or one of them another number of times, than the moments are of.
        """
        with tap_inputs(self._teacher, self._paths) as seen:
            logits: Tensor = self._teacher(images)
            if len(seen.keys) > len(self._keys):
                raise ConfigError(
                    f"The teacher visits {next(key for key in seen.keys if key not in self._keys)!r} beyond what its moments are of: "
                    "extract its statistics again, and take another method where what its network runs depends on the images."
                )
            return logits, [batch_moments(seen[key]) for key in self._keys]

    def distance(self, batch: list[LayerMoments]) -> Tensor:
        """Distance of the statistics, blended with the running average where there is one, from the teacher's."""
        if self._past:
            batch = [blend(now, past, self._momentum) for now, past in zip(batch, self._past, strict=True)]
        return moment_distance(batch, self._targets)

    def remember(self, batch: list[LayerMoments]) -> None:
        """Move the running average once; the first call starts it from the batch itself."""
        if self._momentum == 0:
            return
        now = [LayerMoments(layer.mean.detach(), layer.variance.detach()) for layer in batch]
        self._past = [blend(layer, past, self._momentum) for layer, past in zip(now, self._past, strict=True)] if self._past else now

    def state_dict(self) -> dict[str, Any]:
        """The running average, visit by visit."""
        return {key: {"mean": layer.mean, "variance": layer.variance} for key, layer in zip(self._keys, self._past, strict=False)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; an empty one means that nothing was remembered yet."""
        device = self._teacher.mean.device
        self._past = [LayerMoments(state[key]["mean"].to(device), state[key]["variance"].to(device)) for key in self._keys if key in state]
