"""FastDFKD against a plain loop in float64 that shares no loss, optimiser, tap or meta-gradient with the library."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillery.data.augment import AugmentConfig, draw_shifts
from distillery.methods.fast_dfkd import FastDFKD, FastDFKDConfig
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import build_generator
from distillery.runtime import resolve_runtime
from distillery.seeding import seeded, stream
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier
from equivalence.plain import (
    PlainAdam,
    cross_entropy,
    masked_disagreement,
    matching,
    moments_of,
    shifted,
    tiny_classifier,
    watched_forward,
)

SEED, ROUNDS = 5, 4


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def configure(**changes: Any) -> FastDFKDConfig:
    fields: dict[str, Any] = {
        "generator": {"name": "generator", "latent": 6, "width": 4, "condition": "one_hot"},
        "batch": 8,
        "steps": 3,
        "warmup": 2,
        "reset_after": 1,
        "augment": {"crop_padding": 1, "flip": True},
    }
    return FastDFKDConfig.parse(fields | changes)


class PlainFastDFKD:
    """The algorithm read off the paper and the facts on its code, step by step."""

    def __init__(self, config: FastDFKDConfig, teacher: Classifier) -> None:
        self.config, self.teacher, self.draws = config, teacher, stream(SEED, "fast_dfkd", "learning")
        self.theta = self.fresh("init")
        self.outer = PlainAdam([config.meta_rate or config.generator_rate * config.steps] * len(list(self.theta.parameters())))
        self.average: list[tuple[Tensor, Tensor]] = []
        self.count = 0

    def fresh(self, *names: str | int) -> nn.Module:
        with seeded(SEED, "fast_dfkd", *names):
            return build_generator(self.config.generator, self.teacher.spec, 3).train()

    def round(self, student: Classifier | None) -> tuple[Tensor, Tensor, list[float]]:
        config = self.config
        self.count += 1
        if config.reset != "off" and self.count == config.warmup + config.reset_after:
            self.reset_first_layers()
        if config.reuse == "none":
            self.theta = self.fresh("init", self.count)
        labels = torch.randint(3, (config.batch,), generator=self.draws)
        fast = copy.deepcopy(self.theta)
        weights = list(fast.parameters())
        z = torch.randn(config.batch, config.generator.latent, generator=self.draws)
        inner = PlainAdam([config.generator_rate] * len(weights) + [config.latent_rate])
        history: list[list[Tensor]] = []
        losses: list[float] = []
        best: tuple[float, Tensor] = (float("inf"), z)
        for _ in range(config.steps):
            z = z.detach().requires_grad_()
            images = fast(z, labels)
            view = shifted(images, *draw_shifts(config.batch, config.augment, self.draws), config.augment.crop_padding)
            loss, statistics = self.loss(view, labels, student)
            gradients = list(torch.autograd.grad(loss, [*weights, z]))
            losses.append(float(loss.detach()))
            if losses[-1] < best[0]:
                best = (losses[-1], images.detach())
            history.append([gradient.clone() for gradient in gradients[:-1]])
            inner.step([*weights, z], gradients)
        self.remember(statistics)
        self.learn(history, weights)
        return best[1], labels, losses

    def loss(self, view: Tensor, labels: Tensor, student: Classifier | None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        config, momentum = self.config, self.config.moments_momentum
        logits, statistics = watched_forward(self.teacher, view)
        compared = statistics
        if self.average:
            compared = [
                tuple((1 - momentum) * now + momentum * past for now, past in zip(layer, average, strict=True))
                for layer, average in zip(statistics, self.average, strict=True)
            ]  # type: ignore[misc]
        loss = config.moments_weight * matching(self.teacher, compared) + config.label_weight * cross_entropy(logits, labels)
        if student is not None and self.count >= config.warmup:
            loss = loss + config.adversarial_weight * masked_disagreement(student(view), logits)
        return loss, statistics

    def remember(self, statistics: list[tuple[Tensor, Tensor]]) -> None:
        momentum = self.config.moments_momentum
        now = [(mean.detach(), variance.detach()) for mean, variance in statistics]
        if self.average:
            now = [
                (momentum * past[0] + (1 - momentum) * seen[0], momentum * past[1] + (1 - momentum) * seen[1])
                for past, seen in zip(self.average, now, strict=True)
            ]
        self.average = now if momentum else []

    def learn(self, history: list[list[Tensor]], adapted: list[Tensor]) -> None:
        reuse, theta = self.config.reuse, list(self.theta.parameters())
        if reuse == "sequential":
            with torch.no_grad():
                for before, after in zip(theta, adapted, strict=True):
                    before.copy_(after)
        elif reuse != "none":
            if reuse == "fomaml_sum":
                gradients = [sum(step[i] for step in history) for i in range(len(theta))]
            elif reuse == "fomaml_last":
                gradients = history[-1]
            else:
                gradients = [67 * (before - after).detach() for before, after in zip(theta, adapted, strict=True)]
            self.outer.step(theta, gradients)  # type: ignore[arg-type]

    @torch.no_grad()
    def reset_first_layers(self) -> None:
        linear, norm = self.theta.linear, self.theta.norm
        linear.weight.copy_(0.02 * torch.randn(linear.weight.shape, generator=self.draws))
        linear.bias.zero_()
        if self.config.reset == "first_layer_and_norm":
            norm.weight.copy_(0.02 * torch.randn(norm.weight.shape, generator=self.draws))
            norm.bias.zero_()


def both(config: FastDFKDConfig) -> tuple[FastDFKD, PlainFastDFKD, Classifier]:
    teacher, student = tiny_classifier(6, seed=1).freeze(), tiny_classifier(4, seed=2)
    ours = FastDFKD(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))
    return ours, PlainFastDFKD(config, teacher), student


@pytest.mark.parametrize("reuse", ["fomaml_sum", "fomaml_last", "reptile", "sequential", "none"])
@pytest.mark.parametrize("reset", ["off", "first_layer", "first_layer_and_norm"])
def test_rounds_equal_the_plain_loop(reuse: str, reset: str) -> None:
    ours, plain, student = both(configure(reuse=reuse, reset=reset))
    for count in range(1, ROUNDS + 1):
        result = ours.advance(student)
        images, labels, _ = plain.round(student)
        assert result.batch is not None
        assert result.ready == (count > 2)
        assert torch.equal(result.batch.labels, labels)  # type: ignore[arg-type]
        torch.testing.assert_close(result.batch.images, images, rtol=1e-7, atol=1e-9)
        meta = ours.state_dict()["meta"]
        for name, value in plain.theta.named_parameters():
            torch.testing.assert_close(meta[name], value.detach(), rtol=1e-6, atol=1e-9, msg=f"{name} after round {count}")


def test_the_terms_are_those_of_the_last_step() -> None:
    ours, plain, student = both(configure())
    for _ in range(ROUNDS):
        terms = ours.advance(student).terms
        losses = plain.round(student)[2]
        assert float(torch.stack(list(terms.values())).sum()) == pytest.approx(losses[-1], rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_running_average_moves_once_a_round(momentum: float) -> None:
    ours, plain, student = both(configure(moments_momentum=momentum))
    for _ in range(ROUNDS):
        ours.advance(student)
        plain.round(student)
        remembered = list(ours.state_dict()["moments"].values())
        assert len(remembered) == len(plain.average) == (2 if momentum else 0)
        for layer, (mean, variance) in zip(remembered, plain.average, strict=True):
            torch.testing.assert_close(layer["mean"], mean)
            torch.testing.assert_close(layer["variance"], variance)


def test_the_adversary_starts_one_round_before_the_student() -> None:
    ours, _, student = both(configure())
    seen = [(("adversarial" in (made := ours.advance(student)).terms), made.ready) for _ in range(4)]
    assert seen == [(False, False), (True, False), (True, True), (True, True)]


def test_without_a_student_there_is_no_adversary() -> None:
    ours, plain, _ = both(configure(reset="off"))
    for _ in range(3):
        ours.advance(None)
        plain.round(None)
    for name, value in plain.theta.named_parameters():
        torch.testing.assert_close(ours.state_dict()["meta"][name], value.detach(), rtol=1e-6, atol=1e-9)


def test_the_plain_crop_is_the_library_crop() -> None:
    config = AugmentConfig(crop_padding=2, flip=True)
    images = torch.rand(20, 2, 6, 5)
    from distillery.data.augment import augment

    plain = shifted(images, *draw_shifts(20, config, torch.Generator().manual_seed(3)), 2)
    assert torch.equal(augment(images, config, torch.Generator().manual_seed(3)), plain)


def test_defaults_are_the_published_schedule() -> None:
    config = FastDFKDConfig()
    assert (config.batch, config.steps, config.latent_rate, config.generator_rate) == (256, 5, 0.01, 3e-3)
    assert (config.moments_weight, config.label_weight, config.adversarial_weight) == (10, 0.4, 1.1)
    assert (config.moments_momentum, config.warmup, config.warmup + config.reset_after, config.reuse) == (0.9, 20, 140, "fomaml_sum")
    assert config.generator == GeneratorConfig(name="generator", latent=256, width=64, initialisation="torch")
