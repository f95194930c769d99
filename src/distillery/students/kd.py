"""Response distillation: the student learns the teacher's softened probabilities."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from distillery.data.pool import NO_LABEL
from distillery.errors import ConfigError
from distillery.losses.distillation import kd_loss
from distillery.students.config import ObjectiveConfig
from distillery.students.objective import Objective, Seen


class KDConfig(ObjectiveConfig):
    """Weights of response distillation.

    Attributes:
        temperature: tau, softens both distributions.
        soft: weight of the term against the teacher's probabilities.
        hard: weight of the cross-entropy on labels.
    """

    name: Literal["kd"] = "kd"
    temperature: float = Field(default=20.0, gt=0)
    soft: float = Field(default=1.0, ge=0)
    hard: float = Field(default=0.0, ge=0)
    read_by: ClassVar[Mapping[str, str]] = {"temperature": "soft"}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, by setting."""
        return {"soft": self.soft, "hard": self.hard}

    @property
    def takes_labels(self) -> bool:
        """The cross-entropy does."""
        return bool(self.hard)


class KD(Objective):
    """L = soft * tau^2 * KL(T || S) + hard * CE(S, y), both averaged over the batch.

    y are the batch's labels where it has some (real data; images of another domain among them have none and count in the first term
    only), else the teacher's argmax: the label a synthetic image was asked for is
    too often not what it shows.

    Source: arXiv:1503.02531.
    """

    def __init__(self, config: KDConfig) -> None:
        self.config = config

    def check(self, seen: Seen) -> None:
        """Refuse a student of another number of classes than its teacher's, whose answers it is to give."""
        counts = seen.answers.shape[1], seen.student_logits.shape[1]
        if counts[0] != counts[1]:
            raise ConfigError(
                f"kd compares answers, but the teacher has {counts[0]} classes and the student {counts[1]}: "
                "take fsp, fitnets or attention, which compare features, then cross_entropy on labels; or leave student.classes out."
            )

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """`kd` and `ce`, those of a weight above 0."""
        terms: dict[str, Tensor] = {}
        if self.config.soft:
            terms["kd"] = self.config.soft * kd_loss(seen.student_logits, seen.answers, self.config.temperature)
        if self.config.hard:
            labels = seen.answers.argmax(1) if seen.labels is None else seen.labels
            terms["ce"] = self.config.hard * functional.cross_entropy(seen.student_logits, labels, ignore_index=NO_LABEL)
        return terms
