"""What a student's trainer does in one step, against plain formulas in float64."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.engine.fit import StudentTrainer
from distillery.optim.schedules import ScheduleConfig
from distillery.seeding import stream
from distillery.students.plan import OptimizerConfig, StageConfig
from distillery.types import Batch, Classifier
from fakes import CPU, SPEC, plain_student, tiny_teacher
from toy_objectives import register

HINT = {"name": "hint", "teacher": "network.blocks.1", "student": "network.3"}


@dataclass(frozen=True)
class Same:
    """The same images at every step."""

    images: Tensor

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        return (Batch(self.images) for _ in range(steps))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Classifier, Classifier]:
    register(monkeypatch)
    return tiny_teacher(steps=2).double(), plain_student().double()


def images() -> Tensor:
    return torch.rand(8, *SPEC.shape, generator=stream(0, "images"), dtype=torch.float64)


def one_step(pair: tuple[Classifier, Classifier], clip: float, *objectives: dict[str, Any]) -> dict[str, Tensor]:
    """How far one step of plain descent at rate 1 moves each weight."""
    teacher, student = pair[0], copy.deepcopy(pair[1])
    plain = OptimizerConfig(rate=1.0, momentum=0.0, weight_decay=0.0)
    stage = StageConfig(
        objectives=objectives, epochs=1, steps_per_epoch=1, batch=8, optimizer=plain, schedule=ScheduleConfig(name="constant"), clip=clip
    )
    trainer = StudentTrainer((stage,), teacher, student, CPU, 0)
    trainer._modules.double()
    named = {**dict(student.named_parameters()), **dict(trainer._modules.named_parameters())}
    before = {name: value.detach().clone() for name, value in named.items()}
    trainer.train(1, Same(images()))
    return {name: before[name] - value.detach() for name, value in named.items()}


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_gradients_are_scaled_down_to_the_norm_and_never_up(pair: tuple[Classifier, Classifier], share: float) -> None:
    teacher, student = pair[0], copy.deepcopy(pair[1]).train()
    p, q = ((network(images()) / 4).softmax(1) for network in (teacher, student))
    (16 * (p.detach() * (p.detach().log() - q.log())).sum(1).mean()).backward()
    gradients = {name: value.grad for name, value in student.named_parameters()}
    norm = sum(float(value.square().sum()) for value in gradients.values()) ** 0.5
    moved = one_step(pair, share * norm, {"name": "kd", "temperature": 4})
    for name, gradient in gradients.items():
        torch.testing.assert_close(moved[name], gradient * min(1.0, share), rtol=1e-4, atol=1e-12)


def test_the_norm_is_that_of_all_that_is_trained_regressors_too(pair: tuple[Classifier, Classifier]) -> None:
    free, clipped = (one_step(pair, clip, {"name": "kd"}, HINT) for clip in (0.0, 0.05))
    norm = sum(float(value.square().sum()) for value in free.values()) ** 0.5
    assert norm > 0.05
    assert any(name.startswith("hint.") for name in free)
    for name, value in free.items():
        torch.testing.assert_close(clipped[name], value * 0.05 / norm, rtol=1e-4, atol=1e-12)


def test_several_objectives_are_the_sum_of_each_alone(pair: tuple[Classifier, Classifier]) -> None:
    together = one_step(pair, 0.0, {"name": "kd", "soft": 0.3}, {**HINT, "weight": 2.0})
    kd, hint = one_step(pair, 0.0, {"name": "kd", "soft": 0.3}), one_step(pair, 0.0, {**HINT, "weight": 2.0})
    for name, value in together.items():
        torch.testing.assert_close(value, kd.get(name, torch.zeros(())) + hint[name], rtol=1e-9, atol=1e-12)
