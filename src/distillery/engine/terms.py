"""Loss terms of a loop: summed on the device, read once a round, and stopped where one goes bad."""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.synthesis.common import DIAGNOSED_ROUNDS
from distillery.synthesis.protocol import Round

logger = logging.getLogger(__name__)

EXPLODED = 1e6
"""No weighted term of a working run comes near it."""
_DEAD_SHARE = 0.01


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
            raise bad_term(self._what, *broken[0])
        return dict(zip(self._names, means, strict=True))


def is_bad(values: Tensor) -> Tensor:
    """Where a value is not finite or beyond `EXPLODED`."""
    return ~values.isfinite() | (values.abs() > EXPLODED)


def bad_term(what: str, number: int, name: str, where: str = "at step") -> ConfigError:
    """The error of a loop that went wrong."""
    return ConfigError(
        f"The term {name!r} of {what} is not finite or above {EXPLODED:g} {where} {number}: lower the learning rate or the term's weight."
    )


def read_round(learned: Round, number: int) -> dict[str, float]:
    """The terms of a synthesizer's round, read in one wait; its gradient norms are logged where it gives them.

    Args:
        learned: what `advance` returned.
        number: the round, counted from 1.

    Raises:
        ConfigError: a term is not finite or has exploded.
    """
    terms = _read(learned.terms)
    for name, value in terms.items():
        if not math.isfinite(value) or abs(value) > EXPLODED:
            raise bad_term("the synthesizer", number, name, "in round")
    norms = _read(learned.gradient_norms)
    if norms:
        logger.info("round %d: gradient norms on the images: %s", number, ", ".join(f"{name} {value:.3g}" for name, value in norms.items()))
    for name, value in norms.items():
        if number <= DIAGNOSED_ROUNDS and value < _DEAD_SHARE * max(norms.values()):
            logger.warning("round %d: the term %r hardly moves the images (gradient norm %.3g): is its weight meant?", number, name, value)
    return terms


def round_numbers(learned: Round, number: int) -> dict[str, float]:
    """A synthesizer's round for its history: `synthesis/<term>`, and `gradient/<term>` in the rounds that give gradient norms.

    Args:
        learned: what `advance` returned.
        number: the round, counted from 1.

    Raises:
        ConfigError: a term is not finite or has exploded.
    """
    terms = {f"synthesis/{name}": value for name, value in read_round(learned, number).items()}
    return terms | {f"gradient/{name}": value for name, value in _read(learned.gradient_norms).items()}


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    if not values:
        return {}
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))
