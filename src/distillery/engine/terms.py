"""Loss terms of a loop: summed on the device, read once a round, and stopped where one goes bad."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.numerics import EXPLODED, is_bad
from distillery.synthesis.protocol import Turn
from distillery.synthesis.recorder import DIAGNOSED_TURNS

logger = logging.getLogger(__name__)

_DEAD_SHARE = 0.01
_GRADIENT = "gradient/"


class TermWatch:
    """Running means of a loop's terms that never make the device wait.

    Args:
        what: what is being trained, for the message.
        first_step: number of the first step to be added.
    """

    def __init__(self, what: str, first_step: int) -> None:
        self._what = what
        self._first_step = first_step
        self._steps = 0
        self._names: tuple[str, ...] = ()
        self._totals = self._first_bad = torch.empty(0)

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add one step.

        Args:
            names: of the terms, the same in each step.
            values: (T,) detached.
        """
        if not self._steps:
            self._names = names
            self._totals = torch.zeros_like(values)
            self._first_bad = torch.full_like(values, -1)
        assert names == self._names, "the terms changed between two steps of one stage"
        self._totals += values
        fresh = is_bad(values) & (self._first_bad < 0)
        self._first_bad = torch.where(fresh, self._first_step + self._steps, self._first_bad)
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Mean of each term: the loop's only wait for the device.

        Raises:
            ConfigError: a term was not finite or beyond `EXPLODED`; names the earliest step and its term.
        """
        if not self._steps:
            return {}
        means, first_bad = torch.stack([self._totals / self._steps, self._first_bad]).tolist()
        broken = sorted((int(step), name) for step, name in zip(first_bad, self._names, strict=True) if step >= 0)
        if broken:
            step, name = broken[0]
            raise bad_term(self._what, name, f"at step {step}")
        return dict(zip(self._names, means, strict=True))


def bad_term(what: str, name: str, place: str) -> ConfigError:
    """The error of a loop that went wrong.

    Args:
        what: was being trained.
        name: of the term.
        place: where it went wrong, such as "at step 3".
    """
    return ConfigError(
        f"The term {name!r} of {what} is not finite or above {EXPLODED:g} {place}: lower the learning rate or the term's weight."
    )


def round_numbers(learned: Turn, history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A synthesizer's round for its history: `synthesis/<term>`, and `gradient/<term>` in the rounds that give gradient norms.

    A term that hardly moves the images in one of the first rounds is told, once a run.

    Args:
        learned: what `advance` returned.
        history: what this function gave for each round before.

    Raises:
        ConfigError: a term is not finite or has exploded; names the round, the step within it where that is known, and the term.
    """
    number = len(history) + 1
    terms = _read(learned.terms)
    bad = [name for name, value in terms.items() if not math.isfinite(value) or abs(value) > EXPLODED]
    if bad:
        steps = {name: int(step) for name, step in _read(learned.first_bad).items() if step}
        name = min(steps, key=lambda name: steps[name], default=bad[0])
        place = f"in round {number}, step {steps[name]} of it" if name in steps else f"in round {number}"
        raise bad_term("the synthesizer", name, place)
    norms = _read(learned.gradient_norms)
    if norms:
        logger.info("round %d: gradient norms on the images: %s", number, ", ".join(f"{name} {value:.3g}" for name, value in norms.items()))
    if number <= DIAGNOSED_TURNS:
        told = {name for entry in history for name in _dead(_under(_GRADIENT, entry))}
        for name in (name for name in _dead(norms) if name not in told):
            logger.warning(
                "round %d: the term %r hardly moves the images (gradient norm %.3g): is its weight meant?", number, name, norms[name]
            )
    return {f"synthesis/{name}": value for name, value in terms.items()} | {f"{_GRADIENT}{name}": value for name, value in norms.items()}


def _dead(norms: Mapping[str, float]) -> list[str]:
    return [name for name, value in norms.items() if value < _DEAD_SHARE * max(norms.values())]


def _under(prefix: str, numbers: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    if not values:
        return {}
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))
