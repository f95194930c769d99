"""Response distillation: the student learns the teacher's softened probabilities."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from distillery.config import Config
from distillery.losses.distillation import kd_loss
from distillery.numerics import full_precision
from distillery.types import Batch, Classifier


class KDConfig(Config):
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

    @model_validator(mode="after")
    def _some_term(self) -> "KDConfig":
        if self.soft == 0 and self.hard == 0:
            raise ValueError("soft and hard are both 0: one of them must be above 0")
        return self


class KD:
    """L = soft * tau^2 * KL(T || S) + hard * CE(S, y), both averaged over the batch.

    y are the batch's labels where it has some (real data), else the teacher's argmax: the label a synthetic image was asked for is
    too often not what it shows.

    Source: arXiv:1503.02531.
    """

    def __init__(self, config: KDConfig) -> None:
        self.config = config

    def terms(self, teacher: Classifier, student: Classifier, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms by name, 0-d.

        Args:
            teacher: frozen; runs without a graph.
            student: in the mode that the trainer set.
            batch: images (N, C, H, W) in [0, 1] and labels (N,) or None.
        """
        with torch.no_grad():
            teacher_logits = full_precision(teacher(batch.images))
        logits = full_precision(student(batch.images))
        terms: dict[str, Tensor] = {}
        if self.config.soft:
            terms["kd"] = self.config.soft * kd_loss(logits, teacher_logits, self.config.temperature)
        if self.config.hard:
            labels = teacher_logits.argmax(1) if batch.labels is None else batch.labels
            terms["ce"] = self.config.hard * functional.cross_entropy(logits, labels)
        return terms
