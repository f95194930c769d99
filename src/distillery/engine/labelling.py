"""What a teacher's answers mean: one labeller a task knows what is stored of them, what they count for, and how a student is compared."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from distillery.data.pool import dequantize
from distillery.data.shards import classes_in
from distillery.engine.selection import Score
from distillery.errors import ConfigError
from distillery.losses.distillation import exact_kl
from distillery.numerics import exact
from distillery.types import Classifier, Task

_BATCH = 256


class Labeller(ABC):
    """What depends on a teacher's task.

    Attributes:
        has_quotas: each image is of exactly one class, so that a set can hold so many of each.
    """

    has_quotas: bool = False

    @abstractmethod
    def label(self, teacher: Classifier, images: Tensor) -> Tensor:
        """What is stored of the teacher's answers to uint8 images (N, C, H, W): one row an image, on the teacher's device."""

    @abstractmethod
    def none(self, teacher: Classifier) -> Tensor:
        """What is stored of no images, on the CPU."""

    @abstractmethod
    def compare(self, stored: Tensor, answers: Tensor) -> Score:
        """How far a student agrees with its teacher.

        Args:
            stored: of the teacher's answers to N >= 1 images.
            answers: the student's to the same images, as its network gives them.
        """

    def classes(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """Which classes images count for: (M,) numbers of images, rising, and (M,) the class of each, on the CPU."""
        return classes_in(stored)

    def agrees(self, stored: Tensor, asked: Tensor) -> Tensor:
        """Which images count for the class that they were asked for.

        Args:
            stored: of the teacher's answers to N images.
            asked: (N,) int64, on the CPU.

        Returns:
            (N,) bool.
        """
        images, found = self.classes(stored)
        agreed = torch.zeros(len(asked), dtype=torch.bool)
        agreed[images[found == asked[images]]] = True
        return agreed


class ClassificationLabeller(Labeller):
    """Logits (N, K) are stored; an image counts for their argmax; agreement is a share of images."""

    has_quotas = True

    def label(self, teacher: Classifier, images: Tensor) -> Tensor:
        """The logits, see `teacher_logits`."""
        return teacher_logits(teacher, images)

    def none(self, teacher: Classifier) -> Tensor:
        """(0, K)."""
        return torch.empty(0, teacher.num_classes)

    def compare(self, stored: Tensor, answers: Tensor) -> Score:
        """Images of one argmax, and the sum of KL(T || S) over all of them."""
        total = len(stored)
        agreed = int((stored.argmax(1) == answers.argmax(1)).sum())
        # of equal answers rounding may leave the mean below 0, even in float64
        return Score(total, agreed, max(float(exact_kl(stored, answers).mean()), 0.0) * total)


LABELLERS: Mapping[Task, Labeller] = {"classification": ClassificationLabeller()}
"""By task; a task without one is refused."""


def labeller_of(task: Task) -> Labeller:
    """The labeller of a task.

    Raises:
        ConfigError: there is none.
    """
    if task not in LABELLERS:
        raise ConfigError(f"The teacher's task is {task}, and what is distilled are networks of the task {', '.join(LABELLERS)}: give one.")
    return LABELLERS[task]


@torch.no_grad()
def teacher_logits(teacher: Classifier, images: Tensor) -> Tensor:
    """Logits (N, K) float32 of uint8 images (N, C, H, W), without autocast or TF32: they are stored, and quotas count their argmax.

    Args:
        teacher: frozen.
        images: on any device; the logits are on the teacher's.
    """
    device = teacher.mean.device
    with exact(device):
        parts = [teacher(teacher.arrange(dequantize(part.to(device)))).float() for part in images.split(_BATCH)]
    return torch.cat(parts) if parts else torch.empty(0, teacher.num_classes, device=device)
