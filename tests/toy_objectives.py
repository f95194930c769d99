"""Objectives that the house does not offer, each of the kind of one that it will: they prove that the seam holds them."""

from collections.abc import Mapping
from typing import Literal

import pytest
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import ConfigError
from distillery.models.stages import stage_outputs
from distillery.students.catalog import OBJECTIVES, Need, ObjectiveRow
from distillery.students.config import ObjectiveConfig
from distillery.students.objective import Objective, Seen, Tap, TapPair
from distillery.types import Classifier


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the toys into the catalog for one test."""
    inner: dict[Need, str] = {"features": "", "teacher": ""}
    needs = {"Matrix": inner, "Hint": inner, "Gaze": inner}
    for kind, name in (("Matrix", "matrix"), ("Hint", "hint"), ("Gaze", "gaze"), ("TrueLabels", "true_labels")):
        row = ObjectiveRow(
            name=name,
            title=kind,
            paper="none",
            summary="A toy.",
            implementation=f"toy_objectives:{kind}",
            needs=needs.get(kind, {"labels": ""}),
        )
        monkeypatch.setitem(OBJECTIVES, name, row)


class MatrixConfig(ObjectiveConfig):
    """`pairs`: (start, end) of the layers of each matrix, in both networks; none takes consecutive ends of stages."""

    name: Literal["matrix"] = "matrix"
    pairs: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0


class Matrix(Objective):
    """Gram matrices between two layers, as FSP has them."""

    def __init__(self, config: MatrixConfig) -> None:
        self.config = config

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """Both ends of every pair."""
        counts = [len(stage_outputs(network)) for network in (teacher, student)]
        if not self.config.pairs and counts[0] != counts[1]:
            raise ConfigError(f"The teacher has {counts[0]} stages and the student {counts[1]}: give pairs.")
        self._pairs = [self._paired(network) for network in (teacher, student)]
        return TapPair(*(tuple(tap for pair in pairs for tap in pair) for pairs in self._pairs))

    def _paired(self, network: Classifier) -> list[tuple[Tap, Tap]]:
        ends = stage_outputs(network)
        return [(Tap.parse(one), Tap.parse(other)) for one, other in self.config.pairs or zip(ends, ends[1:], strict=False)]

    def check(self, seen: Seen) -> None:
        """Equal channels."""
        for theirs, ours in zip(*self._pairs, strict=True):
            for one, other in zip(theirs, ours, strict=True):
                widths = seen.teacher[one].shape[1], seen.student[other].shape[1]
                if widths[0] != widths[1]:
                    raise ConfigError(
                        f"{one} of the teacher has {widths[0]} channels and {other} of the student {widths[1]}: take equal widths."
                    )

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """One term."""
        wanted = [matrix(*(seen.teacher[tap] for tap in pair)) for pair in self._pairs[0]]
        found = [matrix(*(seen.student[tap] for tap in pair)) for pair in self._pairs[1]]
        squares = [(one - other).square().sum((1, 2)).mean() for one, other in zip(wanted, found, strict=True)]
        return {"matrix": self.config.weight * sum(squares[1:], squares[0])}


def matrix(start: Tensor, end: Tensor) -> Tensor:
    """(N, C, D) of (N, C, H, W) and (N, D, h, w), the larger pooled to the smaller."""
    start = functional.adaptive_max_pool2d(start, end.shape[2:])
    return start.flatten(2) @ end.flatten(2).mT / end[0, 0].numel()


class HintConfig(ObjectiveConfig):
    """`teacher` and `student` are the layers."""

    name: Literal["hint"] = "hint"
    teacher: str
    student: str
    weight: float = 1.0


class Hint(Objective):
    """A layer of the student, through a regressor, learns one of the teacher, as FitNets has it."""

    def __init__(self, config: HintConfig) -> None:
        self.config = config
        self._teacher, self._student = Tap.parse(config.teacher), Tap.parse(config.student)

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """One layer each."""
        return TapPair((self._teacher,), (self._student,))

    def check(self, seen: Seen) -> None:
        """Equal sizes."""
        theirs, ours = seen.teacher[self._teacher].shape, seen.student[self._student].shape
        if theirs[2:] != ours[2:]:
            raise ConfigError(
                f"{self._teacher} of the teacher is {tuple(theirs[2:])} and {self._student} of the student {tuple(ours[2:])} in size: no."
            )

    def modules(self, seen: Seen) -> Mapping[str, nn.Module]:
        """The regressor, with a BatchNorm so that it has buffers."""
        entries, exits = seen.student[self._student].shape[1], seen.teacher[self._teacher].shape[1]
        self._regressor = nn.Sequential(nn.Conv2d(entries, exits, 1), nn.BatchNorm2d(exits))
        return {"regressor": self._regressor}

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """One term."""
        mapped = self._regressor(seen.student[self._student])
        return {"hint": self.config.weight * functional.mse_loss(mapped, seen.teacher[self._teacher])}


class GazeConfig(ObjectiveConfig):
    """How many of the last stages."""

    name: Literal["gaze"] = "gaze"
    stages: int = 2
    weight: float = 1.0


class Gaze(Objective):
    """Maps of squared activations, as attention transfer has them."""

    def __init__(self, config: GazeConfig) -> None:
        self.config = config

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """The last stages of both."""
        self._taps = [tuple(map(Tap, stage_outputs(network)[-self.config.stages :])) for network in (teacher, student)]
        return TapPair(*self._taps)

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """One term."""
        total = seen.student_logits.new_zeros(())
        for one, other in zip(*self._taps, strict=True):
            size = seen.teacher[one].shape[2:]
            maps = [
                functional.normalize(functional.adaptive_avg_pool2d(features.square().mean(1), size).flatten(1))
                for features in (seen.teacher[one], seen.student[other])
            ]
            total = total + (maps[0] - maps[1]).square().mean()
        return {"gaze": self.config.weight * total}


class TrueLabelsConfig(ObjectiveConfig):
    """Nothing to set."""

    name: Literal["true_labels"] = "true_labels"
    weight: float = 1.0


class TrueLabels(Objective):
    """Cross-entropy on labels that somebody gave; its term has the name of one of KD's."""

    def __init__(self, config: TrueLabelsConfig) -> None:
        self.config = config

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """One term."""
        assert seen.labels is not None
        return {"ce": self.config.weight * functional.cross_entropy(seen.student_logits, seen.labels)}
