"""Top-1, top-5, per class and the confusion matrix, as counts and rates."""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config

MAX_CONFUSION_CLASSES = 256


class ClassAccuracy(Config):
    """How often images of one class are recognised.

    Attributes:
        name: the class.
        correct: images of this class whose argmax is this class.
        total: images of this class.
    """

    name: str
    correct: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def rate(self) -> float:
        """Correct / total, 0 where the class has no images."""
        return self.correct / self.total if self.total else 0.0


class Accuracy(Config):
    """Accuracy against labels; all zero where there are none.

    Attributes:
        correct: images whose argmax is their label.
        total: labelled images.
        top1: correct / total.
        top5_correct: images whose label is among the five largest logits, or among all where there are fewer than five classes.
        top5: top5_correct / total.
        per_class: one entry a class, in the order of the logits.
        confusion: K rows of K counts, row = label, column = argmax; empty above 256 classes, where nobody could read it.
    """

    correct: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)
    top1: float = 0.0
    top5_correct: int = Field(default=0, ge=0)
    top5: float = 0.0
    per_class: tuple[ClassAccuracy, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def measure(cls, logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Self:
        """Count.

        Args:
            logits: (N, K), N >= 1.
            labels: (N,) int64 in [0, K).
            class_names: K names.
        """
        num_classes = len(class_names)
        matrix = confusion_matrix(logits.argmax(1), labels, num_classes)
        hits = matrix.diagonal().tolist()
        correct, total = sum(hits), len(labels)
        top5_correct = int((logits.topk(min(5, num_classes)).indices == labels[:, None]).sum())
        per_class = zip(class_names, hits, matrix.sum(1).tolist(), strict=True)
        return cls(
            correct=correct,
            total=total,
            top1=correct / total,
            top5_correct=top5_correct,
            top5=top5_correct / total,
            per_class=tuple(ClassAccuracy(name=name, correct=hit, total=count) for name, hit, count in per_class),
            confusion=tuple(map(tuple, matrix.tolist())) if num_classes <= MAX_CONFUSION_CLASSES else (),
        )


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K) int64, row = label, column = predicted class.

    Args:
        predicted: (N,) int64 in [0, K).
        labels: (N,) int64 in [0, K).
        num_classes: K.
    """
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)
