"""The plain loop that benchmarks compare with computes what ours computes: same draws and images in, same updates out, in float64."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.data.pool import dequantize, quantize
from distillery.engine.fit import StudentTrainer
from distillery.methods.fast_dfkd import FastDFKD, FastDFKDConfig
from distillery.optim.schedules import ScheduleConfig
from distillery.runtime import resolve_runtime
from distillery.seeding import stream
from distillery.students.plan import OptimizerConfig, StageConfig
from distillery.synthesis.protocol import Ingredients
from distillery.types import Batch, Classifier
from equivalence.plain import SPEC, moments_of, tiny_classifier
from rival import Networks, PngFolder, Rival, Schedule, reading, write_png

SEED = 5
SCHEDULE = Schedule(batch=8, latent=6, steps=3, warmup=2, crop_padding=1)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_ours(teacher: Classifier) -> FastDFKD:
    config = FastDFKDConfig.parse(
        {
            "generator": {"name": "generator", "latent": SCHEDULE.latent, "width": 4},
            "batch": SCHEDULE.batch,
            "steps": SCHEDULE.steps,
            "warmup": SCHEDULE.warmup,
            "reset": "off",
            "augment": {"crop_padding": SCHEDULE.crop_padding, "flip": True},
        }
    )
    return FastDFKD(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))


def make_rival(teacher: Classifier, student: Classifier, generator: Any) -> Rival:
    return Rival(Networks(teacher.network, student.network, generator, SPEC.mean, SPEC.std, 3), SCHEDULE)


class Given:
    """A feed of batches that lie ready."""

    def __init__(self, batches: list[Tensor]) -> None:
        self._batches = batches

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        return (Batch(images) for images in self._batches[:steps])


def test_synthesis_calls_are_equal() -> None:
    teacher, student = tiny_classifier(6, seed=1).freeze(), tiny_classifier(4, seed=2)
    ours = make_ours(teacher)
    rival = make_rival(teacher, student, ours._meta)
    draws = stream(SEED, "fast_dfkd", "learning")
    for _ in range(4):  # without and with the adversarial term, without and with a running average
        made = ours.advance(student)
        assert made.batch is not None
        torch.testing.assert_close(made.batch.images, rival.synthesize(draws), rtol=1e-7, atol=1e-9)
        for name, value in rival.generator.named_parameters():
            torch.testing.assert_close(ours.state_dict()["meta"][name], value.detach(), rtol=1e-6, atol=1e-9, msg=name)


def test_student_steps_are_equal() -> None:
    teacher, student = tiny_classifier(6, seed=1).freeze(), tiny_classifier(4, seed=2)
    rival = make_rival(teacher, student, torch.nn.Linear(1, 1))
    stage = StageConfig(
        objectives=[{"name": "kd", "temperature": SCHEDULE.temperature}],
        steps_per_epoch=5,
        batch=SCHEDULE.batch,
        optimizer=OptimizerConfig(rate=SCHEDULE.student_rate, momentum=SCHEDULE.student_momentum, weight_decay=SCHEDULE.student_decay),
        schedule=ScheduleConfig(name="constant"),
    )
    trainer = StudentTrainer((stage,), teacher, student, resolve_runtime("cpu", "float32"), SEED)
    batches = [torch.rand(SCHEDULE.batch, 2, 8, 8) for _ in range(5)]
    terms = trainer.train(5, Given(batches))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (SPEC.mean, SPEC.std))
    losses = [rival.train([(images - mean) / std]) for images in batches]
    assert terms["kd"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    for name, value in rival.student.state_dict().items():
        torch.testing.assert_close(trainer.student.network.state_dict()[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_the_rival_has_the_habits_it_is_said_to_have() -> None:
    teacher, student = tiny_classifier(6, seed=1).freeze(), tiny_classifier(4, seed=2)
    rival = make_rival(teacher, student, make_ours(teacher)._meta)
    rival.synthesize(torch.Generator())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in rival.teacher.parameters())
    before = [hook.distance for hook in rival.hooks]
    rival.train([torch.rand(8, 2, 8, 8)])
    assert all(bool(hook.distance != old) for hook, old in zip(rival.hooks, before, strict=True))
    assert len(rival.hooks) == 2
    assert all(not parameter.requires_grad for parameter in teacher.parameters()), "the rival works on copies"


def test_png_files_give_back_what_a_pool_would(tmp_path: Path) -> None:
    images = torch.rand(10, 3, 8, 8)
    write_png(tmp_path, images[:6], 0)
    write_png(tmp_path, images[6:], 6)
    networks = Networks(*[torch.nn.Identity()] * 3, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1), classes=3)
    folder = PngFolder(tmp_path, copy.deepcopy(reading(networks, 8, 0)))
    folder.transform.transforms.pop(1)  # the mirror
    seen = torch.cat(list(folder.batches(4, steps=3)))
    kept = (dequantize(quantize(images)).double() - torch.tensor(networks.mean).view(-1, 1, 1)) / torch.tensor(networks.std).view(-1, 1, 1)
    apart = torch.cdist(seen.flatten(1), kept.flatten(1))
    assert apart.min(dim=1).values.max() < 1e-4
    assert sorted(apart.argmin(dim=1).tolist()) == list(range(10)), "each image once a pass"
    assert [len(batch) for batch in folder.batches(4, steps=2)] == [4, 4]
