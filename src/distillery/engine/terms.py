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
        # judged on the device: the first bad step is known without a wait at each
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


class TurnWatch:
    """A synthesizer's terms over the turns of one round, summed on the device and read once.

    Args:
        round: its number, counted from 1.
        turns: how many it has, for the message.
    """

    def __init__(self, round: int, turns: int = 1) -> None:
        self._round = round
        self._of = turns
        self._turns = 0
        self._terms: dict[tuple[str, ...], _Sums] = {}  # a turn may have other terms than the one before: warm-up ends
        self._norms: dict[tuple[str, ...], _Sums] = {}

    def add(self, learned: Turn) -> None:
        """Add what a turn's `advance` returned."""
        self._turns += 1
        _add(self._terms, learned.terms, self._turns, learned.first_bad)
        _add(self._norms, learned.gradient_norms, self._turns, {})

    def read(self, history: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The round for its history: `synthesis/<term>`, and `gradient/<term>` where turns gave gradient norms.

        Each is the mean over the turns that gave it. A term that hardly moves the images in one of the first rounds is told, once a run.

        Args:
            history: what this method gave for the rounds before; only the first ones are looked at.

        Raises:
            ConfigError: a term was not finite or had exploded in a turn; names the round, the turn and the step within it where they are
                known, and the term.
        """
        terms, bad = _read(self._terms)
        if bad:
            # of one turn a step that is known comes first: it is where the trouble began
            turn, step, name = min((turn, step or math.inf, name) for name, (turn, step) in bad.items())
            place = f"in round {self._round}" if self._of == 1 else f"in turn {turn} of round {self._round}"
            raise bad_term("the synthesizer", name, place if step == math.inf else f"{place}, step {step:.0f} of it")
        norms, _ = _read(self._norms)
        self._tell(norms, history)
        return {f"synthesis/{name}": value for name, value in terms.items()} | {
            f"{_GRADIENT}{name}": value for name, value in norms.items()
        }

    def _tell(self, norms: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> None:
        if not norms:
            return
        told = ", ".join(f"{name} {value:.3g}" for name, value in norms.items())
        logger.info("round %d: gradient norms on the images: %s", self._round, told)
        if self._round > DIAGNOSED_TURNS:
            return
        before = {name for entry in history[:DIAGNOSED_TURNS] for name in _dead(_under(_GRADIENT, entry))}
        for name in (name for name in _dead(norms) if name not in before):
            logger.warning(
                "round %d: the term %r hardly moves the images (gradient norm %.3g): is its weight meant?", self._round, name, norms[name]
            )


class _Sums:
    """Sums of some values over the turns that have exactly these, and where each was bad first; nothing waits for the device."""

    def __init__(self) -> None:
        self._count = 0
        self._totals = self._turn = self._step = torch.empty(0)

    def add(self, values: Tensor, turn: int, steps: Tensor) -> None:
        """Add a turn's values (T,) and the steps (T,) at which they went bad, 0 where that is not known."""
        if not self._count:
            self._totals, self._turn, self._step = (torch.zeros_like(values) for _ in range(3))
        fresh = is_bad(values) & (self._turn == 0)
        self._turn = torch.where(fresh, float(turn), self._turn)
        self._step = torch.where(fresh, steps, self._step)
        self._totals = self._totals + values
        self._count += 1

    def table(self) -> Tensor:
        """(4, T): mean, the turns that it is of, first bad turn, its step."""
        return torch.stack([self._totals / self._count, torch.full_like(self._totals, self._count), self._turn, self._step])


def _add(sums: dict[tuple[str, ...], _Sums], given: Mapping[str, Tensor], turn: int, first_bad: Mapping[str, Tensor]) -> None:
    if not given:
        return
    values = torch.stack([value.detach().float() for value in given.values()])
    steps = torch.stack([first_bad.get(name, torch.zeros_like(value)).float().to(values.device) for name, value in given.items()])
    sums.setdefault(tuple(given), _Sums()).add(values, turn, steps)


def _read(sums: Mapping[tuple[str, ...], _Sums]) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    """Mean of each value, and the turn and step at which one was bad first: the round's only wait for the device."""
    if not sums:
        return {}, {}
    names = [name for group in sums for name in group]
    rows = zip(*torch.cat([group.table() for group in sums.values()], 1).tolist(), strict=True)
    parts: dict[str, list[tuple[float, float]]] = {}
    bad: dict[str, tuple[int, int]] = {}
    for name, (mean, count, turn, step) in zip(names, rows, strict=True):
        parts.setdefault(name, []).append((mean, count))
        if turn:
            bad[name] = min((int(turn), int(step)), bad.get(name, (int(turn), int(step))))
    return {name: _mean(of) for name, of in parts.items()}, bad


def _mean(parts: Sequence[tuple[float, float]]) -> float:
    if len(parts) == 1:
        return parts[0][0]
    return sum(mean * count for mean, count in parts) / sum(count for _, count in parts)


def _dead(norms: Mapping[str, float]) -> list[str]:
    return [name for name, value in norms.items() if value < _DEAD_SHARE * max(norms.values())]


def _under(prefix: str, numbers: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}
