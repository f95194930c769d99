"""Plain training: the student learns true labels, without a teacher."""

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from distillery.data.pool import NO_LABEL
from distillery.students.config import ObjectiveConfig
from distillery.students.objective import Objective, Seen


class CrossEntropyConfig(ObjectiveConfig):
    """Weight of plain training.

    Attributes:
        weight: of the term.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    weight: float = Field(default=1.0, ge=0)


class CrossEntropy(Objective):
    """L = weight * CE(S, y), the mean over the images that have a label: y are true ones, and a stage of nothing else runs no teacher."""

    def __init__(self, config: CrossEntropyConfig) -> None:
        self.config = config

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """`cross_entropy`."""
        assert seen.labels is not None, "its row says that it needs labels"
        return {"cross_entropy": self.config.weight * functional.cross_entropy(seen.student_logits, seen.labels, ignore_index=NO_LABEL)}
