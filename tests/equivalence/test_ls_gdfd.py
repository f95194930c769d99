"""LS-GDFD against a plain loop in float64 that shares no loss, optimiser or tap with the library."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.models.generators.network import build_generator
from distillery.runtime import resolve_runtime
from distillery.seeding import seeded, stream
from distillery.synthesis.protocol import Ingredients
from equivalence.plain import PlainAdam, cross_entropy, l2, matching, moments_of, tiny_classifier, watched_forward

SEED = 3


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def configure(**changes: Any) -> LSGDFDConfig:
    fields: dict[str, Any] = {
        "generator": {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"},
        "batch": 8,
        "steps_per_round": 3,
        "total_variation_weight": 0.01,
        "l2_weight": 0.02,
    }
    return LSGDFDConfig.parse(fields | changes)


def plain_total_variation(images: Tensor) -> Tensor:
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling, rising = images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]
    return l2(right) + l2(below) + l2(falling) + l2(rising)


ABLATION = [
    {},
    {"moments_weight": 0},
    {"label_weight": 0, "total_variation_weight": 0, "l2_weight": 0},
    {"jitter": 2},
]


@pytest.mark.parametrize("changes", ABLATION, ids=["both", "inceptionism", "moments", "jitter"])
def test_rounds_equal_the_plain_loop(changes: dict[str, Any]) -> None:
    config = configure(**changes)
    teacher = tiny_classifier(6, seed=1).freeze()
    ours = LSGDFD(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))
    with seeded(SEED, "ls_gdfd", "init"):
        generator = build_generator(config.generator, teacher.spec, 3).train()
    draws, weights = stream(SEED, "ls_gdfd", "learning"), list(generator.parameters())
    adam = PlainAdam([config.rate] * len(weights))
    for _ in range(2):
        terms = ours.advance(None).terms
        losses = []
        for _ in range(config.steps_per_round):
            labels = torch.randint(3, (config.batch,), generator=draws)
            images = generator(torch.randn(config.batch, 6, generator=draws), labels)
            view = images
            if config.jitter:
                down, right = torch.randint(-config.jitter, config.jitter + 1, (2,), generator=draws).tolist()
                view = torch.cat([images[:, :, -down % 8 :], images[:, :, : -down % 8]], dim=2)
                view = torch.cat([view[..., -right % 8 :], view[..., : -right % 8]], dim=3)
            logits, statistics = watched_forward(teacher, view)
            loss = config.label_weight * cross_entropy(logits, labels)
            loss = loss + config.total_variation_weight * plain_total_variation(images)
            loss = loss + config.l2_weight * sum((image * image).sum() for image in images) / len(images)
            loss = loss + config.moments_weight * matching(teacher, statistics)
            losses.append(float(loss.detach()))
            adam.step(weights, list(torch.autograd.grad(loss, weights)))
        assert float(torch.stack(list(terms.values())).sum()) == pytest.approx(sum(losses) / len(losses), rel=1e-9)
        learned = ours.state_dict()["generator"]
        for name, value in generator.named_parameters():
            torch.testing.assert_close(learned[name], value.detach(), rtol=1e-6, atol=1e-9)


def test_images_are_one_forward_pass_in_eval_mode() -> None:
    config = configure(batch=4)
    teacher = tiny_classifier(6, seed=1).freeze()
    ours = LSGDFD(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))
    ours.advance(None)
    generator = build_generator(config.generator, teacher.spec, 3)
    generator.load_state_dict(copy.deepcopy(ours.state_dict()["generator"]))
    labels, draws = torch.tensor([2, 2, 2, 2, 0, 1]), stream(SEED, "ls_gdfd", "sampling")
    latents = torch.cat([torch.randn(4, 6, generator=draws), torch.randn(2, 6, generator=draws)])
    with torch.no_grad():
        expected = generator.eval()(latents, labels)
    made = ours.synthesize(6, labels)
    torch.testing.assert_close(made.images, expected)
    assert torch.equal(made.labels, labels)  # type: ignore[arg-type]
