"""Feature distillation by hints: a layer of the student, seen through a regressor, learns a layer of its teacher (FitNets)."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.losses.features import hint_distance
from distillery.students.config import ObjectiveConfig
from distillery.students.layers import check_maps, check_task, ends_of, size_words
from distillery.students.objective import Objective, Seen, Tap, TapPair
from distillery.types import Classifier


class FitNetsConfig(ObjectiveConfig):
    """Settings of hints.

    Attributes:
        teacher: path of the hint layer; "" takes the end of the middle stage.
        student: path of the guided layer; "" likewise.
        weight: of the term; 1 where it stands alone, 100 beside a term on answers in a single stage.
    """

    name: Literal["fitnets"] = "fitnets"
    teacher: str = ""
    student: str = ""
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.teacher) != bool(self.student):
            raise ValueError("teacher and student name a layer each: give both, or neither for the ends of the middle stages")
        return self


class FitNets(Objective):
    """L = weight * mean (h_T - r(g_S))^2, h the teacher's hint layer, g the student's guided layer, r a regressor trained beside it.

    In two stages, as in the paper, the student is trained on this alone first: no gradient goes beyond its guided layer.

    Source: Romero et al., arXiv:1412.6550, section 2.2. The regressor is that of later comparisons of methods: a convolution by the
    relation of the sizes, then BatchNorm and ReLU; the paper has one convolution and the hint layer's non-linearity.
    """

    def __init__(self, config: FitNetsConfig) -> None:
        self.config = config

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """One layer each: the named ones, or the ends of the middle stages, counted with the stem."""
        check_task("fitnets", teacher, student)
        if self.config.teacher:
            self._teacher, self._student = Tap.parse(self.config.teacher), Tap.parse(self.config.student)
        else:
            ends = [ends_of(network, who, "teacher and student") for network, who in ((teacher, "teacher"), (student, "student"))]
            self._teacher, self._student = (found[len(found) // 2] for found in ends)
        return TapPair((self._teacher,), (self._student,))

    def check(self, seen: Seen) -> None:
        """Refuse features that are no maps, and sizes that no regressor brings together."""
        check_maps("fitnets", seen)
        theirs, ours = seen.teacher[self._teacher], seen.student[self._student]
        if find_relation(ours.shape[2], theirs.shape[2]) != find_relation(ours.shape[3], theirs.shape[3]) or not self._relation(seen):
            raise ConfigError(
                f"No regressor of fitnets leads from {self._student} of the student, {size_words(ours.shape)}, to {self._teacher} of the "
                f"teacher, {size_words(theirs.shape)}: take layers of equal size, or a student's that is larger, or half as large."
            )

    def modules(self, seen: Seen) -> Mapping[str, nn.Module]:
        """The regressor."""
        theirs, ours = seen.teacher[self._teacher], seen.student[self._student]
        self._regressor = build_regressor(tuple(ours.shape[1:]), tuple(theirs.shape[1:]))
        return {"regressor": self._regressor}

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """`hint`."""
        regressed = self._regressor(seen.student[self._student])
        return {"hint": self.config.weight * hint_distance(seen.teacher[self._teacher], regressed)}

    def _relation(self, seen: Seen) -> str:
        return find_relation(seen.student[self._student].shape[2], seen.teacher[self._teacher].shape[2])


def find_relation(student: int, teacher: int) -> Literal["twice", "half", "larger", ""]:
    """How the height or width of a student's maps stands to its teacher's: `larger` includes equal ones; "" where no regressor fits."""
    if student == 2 * teacher:
        return "twice"
    if teacher == 2 * student:
        return "half"
    return "larger" if student >= teacher else ""


def build_regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Sequential:
    """A regressor from the maps of one layer to those of another: a convolution, BatchNorm, ReLU.

    A student's maps of twice the size take a convolution of 3 with stride 2, those of half the size a transposed one of 4 with stride 2,
    any other larger ones, and equal ones, a convolution of 1 + s - t.

    Args:
        student: (C, H, W) of the guided layer, related to `teacher` alike in both directions.
        teacher: (C, H, W) of the hint layer.
    """
    entries, exits = student[0], teacher[0]
    relation = find_relation(student[1], teacher[1])
    if relation == "twice":
        first: nn.Module = nn.Conv2d(entries, exits, 3, stride=2, padding=1)
    elif relation == "half":
        first = nn.ConvTranspose2d(entries, exits, 4, stride=2, padding=1)
    else:
        first = nn.Conv2d(entries, exits, (1 + student[1] - teacher[1], 1 + student[2] - teacher[2]))
    return nn.Sequential(first, nn.BatchNorm2d(exits), nn.ReLU())
