"""What an objective of a student owes, and what it gets to see: both networks' answers and features, from one pass of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.statistics.taps import Side
from distillery.types import Classifier


class Tap(NamedTuple):
    """A place in a network whose features an objective reads.

    Attributes:
        visit: path of the module, as the classifier's `named_modules` names it (`network.blocks.2`); its second visit in one forward
            pass is `network.blocks.2..2`.
        side: what flows out of it, or into it.
    """

    visit: str
    side: Side = "output"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A tap as recipes write it: `network.layer1`, or `network.layer1:input`.

        Raises:
            ConfigError: no path, which would be the whole network.
        """
        path = text.removesuffix(":input")
        if not path:
            raise ConfigError(f"The layer {text!r} has no path: give a module's, as named_modules() has it, such as network.layer1.")
        return cls(path, "output" if path == text else "input")

    def __str__(self) -> str:
        return self.visit if self.side == "output" else f"{self.visit}:{self.side}"


class TapPair(NamedTuple):
    """Where an objective reads features of each network; nowhere costs nothing."""

    teacher: tuple[Tap, ...] = ()
    student: tuple[Tap, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What one step saw; each network ran once, whatever the objectives are.

    Attributes:
        teacher_logits: (N, K), in full precision, without a graph; None where no objective of the stage needs the teacher, which then
            does not run.
        student_logits: (N, K), in full precision.
        labels: (N,) int64 of real images; None of synthetic ones, which have none.
        teacher: features of the teacher by tap, in full precision, without a graph.
        student: of the student.
    """

    teacher_logits: Tensor | None
    student_logits: Tensor
    labels: Tensor | None = None
    teacher: Mapping[Tap, Tensor] = field(default_factory=dict)
    student: Mapping[Tap, Tensor] = field(default_factory=dict)

    @property
    def answers(self) -> Tensor:
        """The teacher's logits, for an objective whose row says that it needs the teacher."""
        assert self.teacher_logits is not None, "the row of an objective that reads the teacher's logits names it among its needs"
        return self.teacher_logits


class Objective(Protocol):
    """One thing that a stage minimises; built as `Objective(config)` from its row of the catalog, anew for each stage.

    An objective derives from this class and says what it needs beyond the logits. It is asked in this order: `taps`, then once `check`
    and `modules` with what two images show, then `terms` at every step.
    """

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """Where it reads features; `models.stages.stage_outputs` names places where the settings name none.

        Raises:
            ConfigError: networks that it cannot compare, such as ones of unequal numbers of stages.
        """
        return TapPair()

    def check(self, seen: Seen) -> None:
        """Refuse features that it cannot compare; asked in the plan, on tensors that may hold no numbers.

        Raises:
            ConfigError: names both layers and their sizes, and what to do.
        """

    def modules(self, seen: Seen) -> Mapping[str, nn.Module]:
        """Build what it trains beside the student, such as regressors, sized by what it saw; called once, and it keeps them for `terms`.

        They are drawn from a stream of the objective's own, stand on the device, are trained by the stage's optimizer, are part of its
        checkpoints and never of the student.
        """
        return {}

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """Weighted loss terms by name, 0-d, on the batch's device; the same names at every step."""
        ...
