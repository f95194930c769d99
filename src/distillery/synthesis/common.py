"""What several methods share: a student that is only looked at, images of another domain, labels, and batches of a full size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distillery.data.pool import ImagePool
from distillery.errors import ConfigError
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier


@contextmanager
def only_looked_at(student: Classifier | None) -> Iterator[None]:
    """Run a student in eval mode without gradients to its weights, and leave it bit-identical: mode and flags of every part.

    Args:
        student: the opponent; None where there is none.
    """
    if student is None:
        yield
        return
    modes = {module: module.training for module in student.modules()}
    flags = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    # gradients to the images still pass through it; nobody takes those to its weights
    student.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def needed_ood(method: str, weight: float, ingredients: Ingredients) -> ImagePool | None:
    """Images of another domain for a term; None where its weight is 0.

    Args:
        method: name for the message.
        weight: of the term.
        ingredients: that hold them.

    Raises:
        ConfigError: a weight above 0 and no such images.
    """
    if weight and ingredients.ood is None:
        raise ConfigError(f"{method} needs images of another domain and got none: give some, or set the weight of their term to 0.")
    return ingredients.ood if weight else None


def draw_labels(count: int, num_classes: int, how: str, generator: torch.Generator) -> Tensor:
    """Labels (count,) int64 on the generator's device.

    Args:
        count: how many.
        num_classes: K; labels are in [0, K).
        how: "uniform" draws each independently; "balanced" gives each class its share in random order, and what is left over to classes
            drawn without replacement, so that over many calls no class is asked for more than another.
        generator: the stream drawn from.
    """
    if how == "balanced":
        order = torch.randperm(count, generator=generator, device=generator.device)
        over = count % num_classes
        if over:
            # the last `over` numbers, wherever they stand by now, would always be the first classes
            order[order >= count - over] = torch.randperm(num_classes, generator=generator, device=generator.device)[:over]
        return order % num_classes
    return torch.randint(num_classes, (count,), generator=generator, device=generator.device)


def check_labels(labels: Tensor, n: int, num_classes: int) -> None:
    """Refuse labels of another length or range.

    Args:
        labels: (n,) int64 in [0, K).
        n: images asked for.
        num_classes: K.

    Raises:
        ConfigError: naming the value and what is allowed.
    """
    if labels.shape != (n,):
        raise ConfigError(f"labels has shape {tuple(labels.shape)} but {n} images were asked for: give one label an image.")
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ConfigError(f"labels range over {int(labels.min())}..{int(labels.max())}; the teacher has classes 0..{num_classes - 1}.")


def in_full_batches(labels: Tensor, surplus: Tensor, batch: int, draws: torch.Generator, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Images of labels, made in shuffled batches of one size, for a method that measures statistics of a batch.

    Args:
        labels: (n,) int64, n >= 1.
        surplus: (m,) int64, with which they fill the last batch: n + m is a multiple of `batch`. Their images are dropped.
        batch: images made at a time.
        draws: the stream that shuffles, on the CPU.
        make: images (batch, C, H, W) of labels (batch,) on the CPU.

    Returns:
        (n, C, H, W) in the order of `labels`.
    """
    asked = torch.cat([labels.cpu(), surplus])
    # shuffled together with the surplus: labels that come sorted would fill batches with one class each
    order = torch.randperm(len(asked), generator=draws)
    made = torch.cat([make(part) for part in asked[order].split(batch)])
    return made[order.argsort().to(made.device)[: len(labels)]]
