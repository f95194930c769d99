"""The weighted terms of a turn: their strength at each step, which of them went bad, and how hard each pulls at the images."""

from collections.abc import Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor

from distillery.numerics import is_bad
from distillery.synthesis.protocol import Turn
from distillery.types import Batch

DIAGNOSED_TURNS = 3
"""First turns whose gradient norms are measured: a dead term is the field's commonest bug, and it shows at once."""


def is_diagnosed(number: int) -> bool:
    """Whether a turn, counted from 1, measures gradient norms: the first ones, then 4, 8, 16 and so on, which costs next to nothing."""
    return number <= DIAGNOSED_TURNS or number & (number - 1) == 0


class TermRecorder:
    """Collects one turn's terms step by step; nothing waits for the device.

    Terms that add up over groups, one a generator, are recorded and judged as the mean of a group: what is too large does not depend on
    how many generators learn beside each other.

    Args:
        diagnose: measure at the first step how hard each term pulls at the images.
    """

    def __init__(self, diagnose: bool = False) -> None:
        self._diagnose = diagnose
        self._names: tuple[str, ...] = ()
        self._sums: list[Tensor] = []
        self._groups: list[int] = []
        self._at = 0
        self._pulls: list[tuple[dict[str, Tensor], int]] = []

    def begin(self) -> None:
        """Count steps from the first again: the same turn of further generators, which are added to those before."""
        self._at = 0

    def add(self, terms: Mapping[str, Tensor], images: Tensor, groups: int = 1) -> Tensor:
        """Add one step.

        Args:
            terms: weighted, 0-d, with their graph; the same names at each step of a turn.
            images: (N, C, H, W) that they are of, part of that graph.
            groups: how many generators the terms are summed over.

        Returns:
            The loss, 0-d: the sum of the terms.
        """
        if self._diagnose and not self._at:
            self._pulls.append((_gradient_norms(terms, images), groups))
        # kept on the device: a number read here would make every step wait
        values = torch.stack(list(terms.values()))
        self._names = tuple(terms)
        if self._at == len(self._sums):
            self._sums.append(values.detach())
            self._groups.append(groups)
        else:
            self._sums[self._at] = self._sums[self._at] + values.detach()
            self._groups[self._at] += groups
        self._at += 1
        return values.sum()

    def mean(self) -> dict[str, Tensor]:
        """Each term's mean over the steps."""
        return self._named(reduce(add, self._steps) / len(self._sums))

    def last(self) -> dict[str, Tensor]:
        """Each term at the last step."""
        return self._named(self._steps[-1])

    def first_bad(self) -> dict[str, Tensor]:
        """The step, counted from 1, at which each term first went bad; 0 where none did."""
        bad = is_bad(torch.stack(self._steps))
        return self._named(torch.where(bad.any(0), bad.int().argmax(0) + 1, 0))

    def gradient_norms(self) -> dict[str, Tensor]:
        """The L2 norm of each term's gradient on one generator's images at the first step; of several, the root of its mean square."""
        if [groups for _, groups in self._pulls] == [1]:
            return self._pulls[0][0]
        total = sum(groups for _, groups in self._pulls)
        squares = {name: torch.stack([norms[name].square() for norms, _ in self._pulls]) for name in self._names if total}
        return {name: (values.sum() / total).sqrt() for name, values in squares.items()}

    def turn(self, terms: Mapping[str, Tensor], batch: Batch | None = None, ready: bool = True) -> Turn:
        """The turn as `advance` returns it.

        Args:
            terms: what it tells of the terms: `mean()` or `last()`.
            batch: its images, if it makes any.
            ready: see `Turn`.
        """
        return Turn(terms, batch, ready, self.gradient_norms(), self.first_bad())

    @property
    def _steps(self) -> list[Tensor]:
        """The mean of a group at each step."""
        return [values / groups for values, groups in zip(self._sums, self._groups, strict=True)]

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, values, strict=True))


def _gradient_norms(terms: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """L2 norm of each weighted term's gradient on the images; the graph is kept for the step that follows."""
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, images, retain_graph=True, allow_unused=True) if term.requires_grad else (None,)
        norms[name] = images.new_zeros(()) if gradient is None else torch.linalg.vector_norm(gradient).detach()
    return norms
