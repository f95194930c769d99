"""How closely a student follows its teacher on the same images; needs no labels."""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config

_AT_ONCE = 1024
"""Images whose logits are in float64 at a time: of many classes they are the largest thing in memory."""


class Agreement(Config):
    """Teacher against student.

    Attributes:
        agreed: images on which both have the same argmax.
        total: images.
        rate: agreed / total.
        kl: mean over the images of KL(T || S) = sum_k p_T (log p_T - log p_S) at temperature 1, in nats.
    """

    agreed: int = Field(ge=0)
    total: int = Field(ge=1)
    rate: float
    kl: float

    @classmethod
    def measure(cls, teacher_logits: Tensor, student_logits: Tensor) -> Self:
        """Compare logits (N, K) of the same N >= 1 images."""
        agreed = int((teacher_logits.argmax(1) == student_logits.argmax(1)).sum())
        parts = zip(teacher_logits.split(_AT_ONCE), student_logits.split(_AT_ONCE), strict=True)
        kl = float(torch.cat([_divergence(teacher, student) for teacher, student in parts]).mean())
        total = len(teacher_logits)
        return cls(agreed=agreed, total=total, rate=agreed / total, kl=max(kl, 0.0))


def _divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    teacher, student = teacher_logits.double().log_softmax(1), student_logits.double().log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)
