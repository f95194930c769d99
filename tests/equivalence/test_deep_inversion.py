"""DeepInversion against a plain loop in float64 that shares no loss, optimiser or tap with the library."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from distillery.methods.deep_inversion import DeepInversion, DeepInversionConfig
from distillery.runtime import resolve_runtime
from distillery.seeding import stream
from distillery.synthesis.protocol import Ingredients
from equivalence.plain import moments_of, tiny_classifier
from equivalence.plain_inversion import plain_inversion

SEED = 3
EVERYTHING: dict[str, Any] = {
    "batch": 6,
    "steps": 5,
    "coarse_steps": 3,
    "rate": 0.2,
    "betas": (0.5, 0.9),
    "warmup_steps": 2,
    "schedule": "cosine",
    "jitter": 3,
    "flip": True,
    "clip": True,
    "total_variation_weight": 0.02,
    "total_variation_l1_weight": 0.3,
    "norm_weight": 0.05,
    "moments_weight": 2.0,
    "first_layer_factor": 10.0,
}
TERMS = ("label_weight", "total_variation_weight", "total_variation_l1_weight", "norm_weight", "moments_weight")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def alone(kept: str) -> dict[str, Any]:
    return {**{weight: 0.0 for weight in TERMS if weight != kept}, kept: 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coarse_steps": 0, "jitter": 0, "flip": False, "clip": False},
        {"schedule": "constant", "warmup_steps": 0, "first_layer_factor": 1.0},
        *(alone(weight) for weight in TERMS),
    ],
    ids=["everything", "plain", "constant", *TERMS],
)
def test_batches_equal_the_plain_loop(changes: dict[str, Any]) -> None:
    config = DeepInversionConfig.parse(EVERYTHING | changes)
    teacher = tiny_classifier(6, seed=1).freeze()
    ours = DeepInversion(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))
    draws = stream(SEED, "deep_inversion", "learning")
    for labels in (torch.tensor([2, 0, 1, 1, 2]), torch.tensor([0, 0, 1])):
        turn = ours.advance(None, labels)
        images, loss = plain_inversion(teacher, config, labels, draws)
        assert turn.batch is not None
        torch.testing.assert_close(turn.batch.images, images, rtol=1e-7, atol=1e-9)
        assert float(torch.stack(list(turn.terms.values())).sum()) == pytest.approx(loss, rel=1e-8)


def test_a_batch_of_one_class_goes_to_that_class() -> None:
    teacher = tiny_classifier(6, seed=1).freeze()
    config = DeepInversionConfig.parse({**EVERYTHING, **alone("label_weight"), "steps": 30, "coarse_steps": 0})
    ours = DeepInversion(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED))
    made = [ours.advance(None, torch.full((9,), label)).batch for label in range(3)]
    answers = torch.stack([teacher(batch.images).softmax(dim=1).mean(dim=0) for batch in made if batch is not None])
    assert torch.equal(answers.argmax(dim=0), torch.arange(3)), "no images are more of a class than those made for it"
