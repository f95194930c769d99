"""What several methods share: a student that is only looked at, labels, and the strength of each term."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.numerics import is_bad
from distillery.types import Classifier

DIAGNOSED_ROUNDS = 3
"""First rounds whose gradient norms are measured: a dead term is the field's commonest bug, and it shows at once."""


def is_diagnosed(number: int) -> bool:
    """Whether a round, counted from 1, measures gradient norms: the first ones, then 4, 8, 16 and so on, which costs next to nothing."""
    return number <= DIAGNOSED_ROUNDS or number & (number - 1) == 0


@contextmanager
def only_looked_at(student: Classifier | None) -> Iterator[None]:
    """Run a student in eval mode without gradients to its weights, and leave it bit-identical: mode and flags of every part."""
    if student is None:
        yield
        return
    modes = {module: module.training for module in student.modules()}
    flags = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    student.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


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
            order[order >= count - over] = torch.randperm(num_classes, generator=generator, device=generator.device)[:over]
        return order % num_classes
    return torch.randint(num_classes, (count,), generator=generator, device=generator.device)


def check_labels(labels: Tensor, n: int, num_classes: int) -> None:
    """Refuse labels of another length or range.

    Raises:
        ConfigError: naming the value and what is allowed.
    """
    if labels.shape != (n,):
        raise ConfigError(f"labels has shape {tuple(labels.shape)} but {n} images were asked for: give one label an image.")
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ConfigError(f"labels range over {int(labels.min())}..{int(labels.max())}; the teacher has classes 0..{num_classes - 1}.")


def first_bad(names: Iterable[str], steps: Sequence[Tensor]) -> dict[str, Tensor]:
    """The step of a round, counted from 1, at which each term first went bad; 0 where none did. Nothing waits for the device.

    Args:
        names: of the T terms.
        steps: (T,) detached, one a step.
    """
    bad = is_bad(torch.stack(list(steps)))
    return dict(zip(names, torch.where(bad.any(0), bad.int().argmax(0) + 1, 0), strict=True))


def gradient_norms(terms: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """L2 norm of each weighted term's gradient on the images; the graph is kept for the step that follows."""
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, images, retain_graph=True, allow_unused=True) if term.requires_grad else (None,)
        norms[name] = images.new_zeros(()) if gradient is None else torch.linalg.vector_norm(gradient).detach()
    return norms
