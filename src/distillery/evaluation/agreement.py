"""How closely a student follows its teacher on the same images; needs no labels."""

from typing import Self

from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.losses.distillation import exact_kl


class Agreement(Config):
    """Teacher against student; all zero where they were not compared.

    Attributes:
        agreed: images on which both have the same argmax.
        total: images.
        rate: agreed / total.
        kl: mean over the images of KL(T || S) = sum_k p_T (log p_T - log p_S) at temperature 1, in nats.
    """

    agreed: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)
    rate: float = 0.0
    kl: float = 0.0

    @classmethod
    def measure(cls, teacher_logits: Tensor, student_logits: Tensor) -> Self:
        """Compare logits (N, K) of the same N >= 1 images."""
        agreed = int((teacher_logits.argmax(1) == student_logits.argmax(1)).sum())
        kl = float(exact_kl(teacher_logits, student_logits).mean())
        total = len(teacher_logits)
        return cls(agreed=agreed, total=total, rate=agreed / total, kl=max(kl, 0.0))
