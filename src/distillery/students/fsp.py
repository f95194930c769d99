"""Relation distillation: the student learns how its teacher's features change from one layer to the next (FSP)."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.grammar import counted
from distillery.losses.features import Pooling, Reduction, fsp_distance, fsp_matrix
from distillery.students.config import ObjectiveConfig
from distillery.students.layers import check_maps, check_task, matched_ends
from distillery.students.objective import Objective, Seen, Tap, TapPair
from distillery.types import Classifier

_ENDS = ("start", "end")


class FSPPair(Config):
    """Between which layers a matrix is taken, as (start, end) of each network.

    Attributes:
        teacher: paths as the classifier's `named_modules` has them, such as network.stem.
        student: likewise.
    """

    teacher: tuple[str, str]
    student: tuple[str, str]


class FSPConfig(ObjectiveConfig):
    """Settings of the flow of the solution procedure.

    Attributes:
        pairs: where the matrices are taken; none are those between consecutive ends of stages, stem included, of both networks.
        pair_weights: lambda_i, one a pair; none are all 1.
        pooling: how the larger map of a pair is brought to the size of the smaller: max as in the paper, or average.
        reduction: sum, the squared Frobenius norm of the paper; or mean, that divided by the number of entries.
        projection: let a 1x1 convolution, trained beside the student, bring layers of another width to their teacher's.
        shuffled: a control: every matrix of the teacher has its entries in another order, drawn once and kept through the stage.
        weight: of the whole term.
    """

    name: Literal["fsp"] = "fsp"
    pairs: tuple[FSPPair, ...] = ()
    pair_weights: tuple[float, ...] = ()
    pooling: Pooling = "max"
    reduction: Reduction = "sum"
    projection: bool = False
    shuffled: bool = False
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.pair_weights and (min(self.pair_weights) < 0 or not any(self.pair_weights)):
            raise ValueError(f"pair_weights = {list(self.pair_weights)} must be 0 or more, one of them above 0")
        if self.pairs and self.pair_weights and len(self.pairs) != len(self.pair_weights):
            weights, pairs = counted(len(self.pair_weights), "value"), counted(len(self.pairs), "pair")
            raise ValueError(f"pair_weights has {weights} for {pairs}: give one each, or none")
        return self


class _Matrix(NamedTuple):
    """Layers of one matrix, as (start, end) of each network."""

    teacher: tuple[Tap, Tap]
    student: tuple[Tap, Tap]


class _Order(nn.Module):
    """The order in which a teacher's matrix of m*n entries is read."""

    order: Tensor

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(entries))


class FSP(Objective):
    """L = weight * 1/N sum_x sum_i lambda_i || G_i^T(x) - G_i^S(x) ||_F^2, G as in `losses.features.fsp_matrix`.

    The paper trains a student on this alone first, then on its task from the weights that this left: two stages of a plan.

    Source: Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, CVPR 2017, sections 3.2 and 3.3. Ours: `reduction`, `projection`, and
    pairs by module path.
    """

    def __init__(self, config: FSPConfig) -> None:
        self.config = config
        self._projections: dict[tuple[int, int], nn.Module] = {}
        self._orders: dict[int, _Order] = {}

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """Both layers of every pair."""
        check_task("fsp", teacher, student)
        if self.config.pairs:
            given = [[(Tap.parse(one), Tap.parse(other)) for one, other in (pair.teacher, pair.student)] for pair in self.config.pairs]
            self._matrices = [_Matrix(theirs, ours) for theirs, ours in given]
        else:
            theirs, ours = matched_ends(teacher, student, "pairs")
            between = zip(zip(theirs, theirs[1:], strict=False), zip(ours, ours[1:], strict=False), strict=True)
            self._matrices = [_Matrix(*pair) for pair in between]
        count = len(self._matrices)
        if not count:
            raise ConfigError("fsp takes matrices between the ends of stages, but both networks have one stage only: name layers by pairs.")
        if self.config.pair_weights and len(self.config.pair_weights) != count:
            raise ConfigError(
                f"pair_weights has {counted(len(self.config.pair_weights), 'value')}, but the layers make {counted(count, 'pair')}: "
                f"give {count}, or none."
            )
        self._weights = self.config.pair_weights or (1.0,) * count
        return TapPair(
            tuple(tap for matrix in self._matrices for tap in matrix.teacher),
            tuple(tap for matrix in self._matrices for tap in matrix.student),
        )

    def check(self, seen: Seen) -> None:
        """Refuse features that are no maps, and layers of unequal width that no projection brings together."""
        check_maps("fsp", seen)
        if self.config.projection:
            return
        for matrix in self._matrices:
            for theirs, ours in zip(matrix.teacher, matrix.student, strict=True):
                widths = seen.teacher[theirs].shape[1], seen.student[ours].shape[1]
                if widths[0] != widths[1]:
                    raise ConfigError(
                        f"fsp compares layers of one width, but {theirs} of the teacher has {widths[0]} channels and {ours} of the student "
                        f"{widths[1]}: set projection: true, which trains a 1x1 convolution from {widths[1]} to {widths[0]} beside the "
                        "student, or take a student of the teacher's widths."
                    )

    def modules(self, seen: Seen) -> Mapping[str, nn.Module]:
        """A 1x1 convolution for each layer of another width than its teacher's, and the orders of a shuffled control."""
        built: dict[str, nn.Module] = {}
        for number, matrix in enumerate(self._matrices):
            theirs = [seen.teacher[tap].shape[1] for tap in matrix.teacher]
            ours = [seen.student[tap].shape[1] for tap in matrix.student]
            for place, (wanted, found) in enumerate(zip(theirs, ours, strict=True)):
                if self.config.projection and wanted != found:
                    built[f"{_ENDS[place]}{number}"] = self._projections[number, place] = nn.Conv2d(found, wanted, 1, bias=False)
            if self.config.shuffled:
                built[f"order{number}"] = self._orders[number] = _Order(theirs[0] * theirs[1])
        return built

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """`fsp`."""
        total = seen.student_logits.new_zeros(())
        for number, (matrix, weight) in enumerate(zip(self._matrices, self._weights, strict=True)):
            wanted = fsp_matrix(*_both(seen.teacher, matrix.teacher), pooling=self.config.pooling)
            if self.config.shuffled:
                wanted = wanted.flatten(1)[:, self._orders[number].order].view_as(wanted)
            start, end = (self._projected(number, place, features) for place, features in enumerate(_both(seen.student, matrix.student)))
            found = fsp_matrix(start, end, self.config.pooling)
            total = total + weight * fsp_distance(wanted, found, self.config.reduction)
        return {"fsp": self.config.weight * total}

    def _projected(self, number: int, place: int, features: Tensor) -> Tensor:
        projection = self._projections.get((number, place))
        return features if projection is None else projection(features)


def _both(seen: Mapping[Tap, Tensor], taps: tuple[Tap, Tap]) -> tuple[Tensor, Tensor]:
    return seen[taps[0]], seen[taps[1]]
