"""Several students as one: the mean of their answers."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.types import Classifier, ImageSpec


def mean_answer(logits: Sequence[Tensor]) -> Tensor:
    """Logits of the mean softmax: z = log(1/M sum_m softmax(z_m)).

    Args:
        logits: of each member, (N, K).

    Returns:
        (N, K); their softmax is the mean of the members'.
    """
    return torch.stack([answers.log_softmax(1) for answers in logits]).logsumexp(0) - math.log(len(logits))


class _Mean(nn.Module):
    """A network of networks, each of which normalises for itself."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        members = (cast(Classifier, member) for member in self.members)
        return mean_answer([member(member.arrange(images)) for member in members])


def as_one(members: Sequence[Classifier]) -> Classifier:
    """Classifiers of the same images and classes as one, which answers with the mean of their softmax.

    Args:
        members: two or more; they are held, not copied.

    Raises:
        ConfigError: their images or classes differ.
    """
    first = members[0]
    for member in members[1:]:
        if member.class_names != first.class_names:
            raise ConfigError(
                f"The students cannot be averaged, because they tell other classes apart: {_named(first)} and {_named(member)}; give "
                "students of the same classes, in the same order."
            )
        if member.spec.shape != first.spec.shape:
            raise ConfigError(
                f"The students cannot be averaged, because they expect images {first.spec.shape} and {member.spec.shape} (channels, "
                "height, width): give students of the same images."
            )
    channels, height, width = first.spec.shape
    raw = ImageSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Classifier(_Mean(members), raw, first.class_names, task=first.task)


def _named(classifier: Classifier, most: int = 4) -> str:
    names = ", ".join(classifier.class_names[:most])
    return f"{names} and so on ({classifier.num_classes})" if classifier.num_classes > most else names
