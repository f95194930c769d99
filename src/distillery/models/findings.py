"""What is wrong with a teacher that runs: it gives no logits, lets no gradient through, or gets images on another scale."""

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.models.trial import Trial, are_probabilities, refuse_probabilities
from distillery.types import ImageSpec

_LARGEST_STD = 4.0  # pixels in [0, 1] have at most 0.5, and 1 leaves them as they are; on the scale to 255 images have 30 to 80


def check_constants(spec: ImageSpec) -> None:
    """Refuse a mean and std of pixels in 0 to 255, for all pixels are in [0, 1] here.

    Raises:
        ConfigError: naming both, divided by 255.
    """
    if max(spec.mean) <= 1 and max(spec.std) <= _LARGEST_STD:
        return
    mean, std = (", ".join(f"{value / 255:.4g}" for value in values) for values in (spec.mean, spec.std))
    raise ConfigError(
        f"mean = {_listed(spec.mean)} and std = {_listed(spec.std)} are of pixels in 0 to 255, but pixels are in [0, 1] here: "
        f"divide both by 255, which gives mean {mean} and std {std}."
    )


def judge(trial: Trial, name: str) -> list[str]:
    """Look at what a teacher did with random images.

    Args:
        trial: of the teacher.
        name: of its architecture.

    Returns:
        A sentence for each thing that its owner should know.

    Raises:
        ConfigError: it gives probabilities where logits belong.
    """
    logits = trial.logits[max(trial.logits)].double()
    refuse_probabilities(trial, name)
    told = {
        f"{name} gives the logarithms of probabilities (as after log_softmax), which a softmax takes for logits: nothing is lost, but "
        "scores of other kinds see them shifted.": are_probabilities(logits.exp()),
        f"All that {name} gives lies between 0 and 1, as after a sigmoid: if it ends in one, return what goes into it.": _are_sigmoids(
            logits
        ),
        f"{name} gives the same for images as different as noise and patches: check mean, std and the checkpoint.": _are_equal(logits),
        f"{name} lets no gradient through to its images ({trial.blocked}): it can teach on a set that exists, but no method can make "
        "images with it.": bool(trial.blocked) and not _are_equal(logits),
        f"{name} answers otherwise when it is asked again (dropout or noise that stays on in eval mode): switch that off, or no run can "
        "be repeated.": trial.random,
        f"{name} changes its own state {', '.join(trial.written[:3])} in eval mode: its answers may depend on what it saw before.": bool(
            trial.written
        ),
        trial.bfloat16: bool(trial.bfloat16),
    }
    return [sentence for sentence, holds in told.items() if holds]


def _are_sigmoids(logits: Tensor) -> bool:
    """None is 0, as some are after a ReLU."""
    return bool(((logits > 0) & (logits < 1)).all()) and not _are_equal(logits)


def _are_equal(logits: Tensor) -> bool:
    return torch.allclose(logits, logits[:1].expand_as(logits), rtol=0, atol=1e-6 * float(logits.abs().max()))


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
