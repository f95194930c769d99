"""Top-1, top-5, per class and the confusion matrix, as counts and rates."""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from distillery.config import Config

Cells = tuple[tuple[int, int, int], ...]
"""(label, argmax, images) of every cell of a confusion matrix that is not 0, row by row: no more of them than images, of any classes."""


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
        confusion: the whole confusion matrix as its cells that are not 0.
    """

    correct: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)
    top1: float = 0.0
    top5_correct: int = Field(default=0, ge=0)
    top5: float = 0.0
    per_class: tuple[ClassAccuracy, ...] = ()
    confusion: Cells = ()

    @model_validator(mode="after")
    def _confusion_counts_each_image_once(self) -> Self:
        if self.confusion:
            places = [cell[:2] for cell in self.confusion]
            inside = all(0 <= place < len(self.per_class) for pair in places for place in pair)
            if not inside or places != sorted(set(places)) or sum(cell[2] for cell in self.confusion) != self.total:
                raise ValueError("its confusion matrix does not count each image once")
        return self

    @classmethod
    def measure(cls, logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Self:
        """Count.

        Args:
            logits: (N, K), N >= 1.
            labels: (N,) int64 in [0, K).
            class_names: K names.
        """
        num_classes = len(class_names)
        predicted = logits.argmax(1)
        hits = labels[predicted == labels].bincount(minlength=num_classes).tolist()
        totals = labels.bincount(minlength=num_classes).tolist()
        correct, total = sum(hits), len(labels)
        top5_correct = int((logits.topk(min(5, num_classes)).indices == labels[:, None]).sum())
        per_class = zip(class_names, hits, totals, strict=True)
        return cls(
            correct=correct,
            total=total,
            top1=correct / total,
            top5_correct=top5_correct,
            top5=top5_correct / total,
            per_class=tuple(ClassAccuracy(name=name, correct=hit, total=count) for name, hit, count in per_class),
            confusion=confusion_cells(predicted, labels),
        )


def confusion_cells(predicted: Tensor, labels: Tensor) -> Cells:
    """The confusion matrix of some images.

    Args:
        predicted: (N,) int64, the class that each was taken for.
        labels: (N,) int64, the class that it shows.
    """
    places, counts = torch.stack([labels, predicted], dim=1).unique(dim=0, return_counts=True)
    return tuple((label, answer, count) for (label, answer), count in zip(places.tolist(), counts.tolist(), strict=True))


def cells_of(rows: Sequence[Sequence[int]]) -> Cells:
    """The cells of a matrix that is written whole, as reports before version 3 hold it."""
    return tuple((label, answer, count) for label, row in enumerate(rows) for answer, count in enumerate(row) if count)


def whole_matrix(cells: Cells, num_classes: int) -> list[list[int]]:
    """K rows of K counts, row = label, column = argmax; only for K so small that somebody looks at each.

    Args:
        cells: of the matrix.
        num_classes: K.
    """
    rows = [[0] * num_classes for _ in range(num_classes)]
    for label, answer, count in cells:
        rows[label][answer] = count
    return rows
