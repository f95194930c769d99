"""Whatever is stored or reported comes out of a network without autocast and TF32, and what the caller had set is set again."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.engine.labelling import teacher_logits
from distillery.evaluation.features import penultimate
from distillery.evaluation.predict import predict
from distillery.numerics import exact
from distillery.statistics.extract import class_moments
from distillery.types import Classifier
from fakes import CLASSES, SPEC, tiny_teacher

SETTINGS: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
PIXELS = torch.randint(0, 256, (8, *SPEC.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WAYS: dict[str, Callable[[Classifier], object]] = {
    "stored logits": lambda teacher: teacher_logits(teacher, PIXELS),
    "predicted logits": lambda teacher: predict(teacher, PIXELS),
    "features": lambda teacher: penultimate(teacher, PIXELS),
    "moments": lambda teacher: class_moments(teacher, PIXELS, torch.arange(8) % len(CLASSES), ""),
}


def now() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.fixture
def fast() -> Iterator[list[str]]:
    """TF32 as people set it for training."""
    before = now()
    for setting in SETTINGS:
        setting.fp32_precision = "tf32"
    yield ["tf32"] * len(SETTINGS)
    for setting, precision in zip(SETTINGS, before, strict=True):
        setting.fp32_precision = precision


@pytest.fixture
def teacher() -> Classifier:
    return tiny_teacher(steps=1)


@pytest.mark.parametrize("way", WAYS)
def test_a_network_is_asked_in_full_precision(way: str, teacher: Classifier, fast: list[str]) -> None:
    seen: list[tuple[list[str], bool]] = []

    def look(module: object, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == len(PIXELS):  # a look at which layers there are measures nothing
            seen.append((now(), torch.is_autocast_enabled("cpu")))

    teacher.register_forward_pre_hook(look)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        WAYS[way](teacher)
        assert torch.is_autocast_enabled("cpu")
    assert seen
    assert all(one == (["ieee"] * len(SETTINGS), False) for one in seen)
    assert now() == fast


def test_stored_logits_are_those_that_are_reported(teacher: Classifier) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher_logits(teacher, PIXELS), predict(teacher, PIXELS))


def test_after_an_error_everything_is_as_before(fast: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), exact(torch.device("cpu")):
        raise ZeroDivisionError
    assert now() == fast


def test_blocks_of_two_threads_that_overlap_leave_what_was_set(fast: list[str]) -> None:
    first, second = exact(torch.device("cpu")), exact(torch.device("cpu"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() == ["ieee"] * len(SETTINGS), "the second is still at work"
    second.__exit__(None, None, None)
    assert now() == fast
