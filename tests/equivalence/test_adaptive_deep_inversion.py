"""Adaptive DeepInversion against a plain loop in float64: the competition with the student, as the paper and as its code has it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.methods.deep_inversion import AdaptiveDeepInversion, AdaptiveDeepInversionConfig
from distillery.runtime import resolve_runtime
from distillery.seeding import stream
from distillery.synthesis.protocol import Ingredients
from equivalence.plain import moments_of, tiny_classifier
from equivalence.plain_inversion import plain_inversion
from equivalence.test_deep_inversion import EVERYTHING, TERMS, alone

SEED = 3


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plain_divergence(student: Tensor, teacher: Tensor, config: Any) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(student / config.temperature, teacher / config.temperature, strict=True):
        p, q = s.exp() / s.exp().sum(), t.exp() / t.exp().sum()
        m = (p + q) / 2
        if config.competition == "clamped":
            p, q, m = (part.clamp(0.01, 0.99) for part in (p, q, m))
            total = total + (m * (m / p).log()).sum() / 2 + (m * (m / q).log()).sum() / 2
        else:
            total = total + (p * (p / m).log()).sum() / 2 + (q * (q / m).log()).sum() / 2
    return total / len(student)


def synthesizer(changes: dict[str, Any]) -> AdaptiveDeepInversion:
    config = AdaptiveDeepInversionConfig.parse({**EVERYTHING, "competition_weight": 5.0, **changes})
    teacher = tiny_classifier(6, seed=1).freeze()
    return AdaptiveDeepInversion(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments_of(teacher)))


@pytest.mark.parametrize("changes", [{}, {"competition": "clamped"}, {"temperature": 1.0}], ids=["paper", "code", "temperature"])
def test_batches_equal_the_plain_loop(changes: dict[str, Any]) -> None:
    ours, student = synthesizer(changes), tiny_classifier(4, seed=2).train()
    config, draws = ours.config, stream(SEED, "adaptive_deep_inversion", "learning")

    def competition(images: Tensor, logits: Tensor) -> Tensor:
        divergence = plain_divergence(student.eval()(images), logits, config)
        return config.competition_weight * (1 - divergence.clamp(0, 1))

    for labels in (torch.tensor([2, 0, 1, 1, 2]), torch.tensor([0, 0, 1])):
        turn = ours.advance(student, labels)
        images, loss = plain_inversion(ours.teacher, config, labels, draws, competition)
        assert turn.batch is not None
        torch.testing.assert_close(turn.batch.images, images, rtol=1e-7, atol=1e-9)
        assert float(torch.stack(list(turn.terms.values())).sum()) == pytest.approx(loss, rel=1e-8)


@pytest.mark.parametrize("competition", ["jensen_shannon", "clamped"])
def test_the_competition_drives_student_and_teacher_apart(competition: str) -> None:
    off = dict.fromkeys(TERMS, 0.0)
    ours = synthesizer({**off, "competition": competition, "steps": 60, "coarse_steps": 0, "schedule": "constant"})
    student = tiny_classifier(4, seed=2)
    first, last = (ours.config.model_copy(update={"steps": steps}) for steps in (1, 60))
    found = []
    for config in (first, last):
        ours.config = config
        batch = ours.advance(student, torch.tensor([0, 1, 2] * 3)).batch
        assert batch is not None
        found.append(float(plain_divergence(student.eval()(batch.images), ours.teacher(batch.images), config).detach()))
    assert found[1] > 1.5 * found[0]


def test_the_competition_alone_says_that_it_needs_a_student() -> None:
    ours = synthesizer({**dict.fromkeys(TERMS, 0.0)})
    for call in (lambda: ours.advance(None), lambda: ours.synthesize(3)):
        with pytest.raises(ConfigError, match="competition_weight alone is above 0, and that term needs a student"):
            call()


def test_without_a_student_it_is_deep_inversion() -> None:
    assert "competition" not in synthesizer({}).advance(None).terms
    assert "competition" not in synthesizer({"competition_weight": 0.0}).advance(tiny_classifier(4, seed=2)).terms
    assert set(synthesizer(alone("label_weight")).advance(tiny_classifier(4, seed=2)).terms) == {"label", "competition"}
