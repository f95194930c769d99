"""How closely a student follows its teacher on the same images; needs no labels."""

from typing import Self

from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.losses.distillation import exact_kl


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
        kl = float(exact_kl(teacher_logits, student_logits).mean())
        total = len(teacher_logits)
        return cls(agreed=agreed, total=total, rate=agreed / total, kl=max(kl, 0.0))
