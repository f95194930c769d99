"""What a method that optimises images gets from the loop that such methods share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.methods.deep_inversion import AdaptiveDeepInversion, AdaptiveDeepInversionConfig, DeepInversionConfig
from distillery.runtime import resolve_runtime
from distillery.synthesis.inversion import InversionConfig, InversionSynthesizer, Pass, View
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier
from equivalence.plain import SPEC, tiny_classifier


class CoarseConfig(InversionConfig):
    """Half the resolution first; the rate falls by steps, so that a test can tell them apart."""

    coarse: int = 0

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (*((Pass(self.coarse, 2),) if self.coarse else ()), Pass(self.steps))

    def rate_at(self, step: int, steps: int) -> float:
        return self.rate * (steps - step)


class Witness(InversionSynthesizer[CoarseConfig]):
    """Keeps what `terms` was given; its loss is what the test says, or the brightness."""

    def __init__(self, losses: tuple[float, ...] = (), **settings: Any) -> None:
        config = CoarseConfig.parse({"batch": 4, "steps": 3, "rate": 0.5, "jitter": 0, **settings})
        super().__init__("witness", config, Ingredients(tiny_classifier(6, seed=1).freeze(), resolve_runtime("cpu", "float32"), 0))
        self.losses = losses
        self.seen: list[View] = []

    def terms(self, view: View, student: Classifier | None) -> dict[str, Tensor]:
        loss = view.pixels.mean()
        if self.losses:
            loss = loss - loss.detach() + self.losses[len(self.seen) % len(self.losses)]
        self.seen.append(View(view.pixels.detach().clone(), view.images.detach().clone(), view.labels))
        return {"bright": loss}


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_images_of_the_best_step_are_kept_and_no_later_step_changes_them(best: int) -> None:
    method = Witness(tuple(0.0 if step == best else 1.0 for step in range(3)))
    made = method.advance(None).batch
    assert made is not None
    torch.testing.assert_close(made.images, method.seen[best].images)
    assert not torch.equal(made.images, method.seen[(best + 1) % 3].images)


def test_a_better_loss_at_another_resolution_is_no_reason_to_keep_its_images() -> None:
    method = Witness((-9.0, -9.0, 1.0, 0.0, 2.0), coarse=2)
    made = method.advance(None).batch
    assert [view.pixels.shape[2:] for view in method.seen] == [(4, 4)] * 2 + [(8, 8)] * 3
    assert made is not None
    torch.testing.assert_close(made.images, method.seen[3].images)


def test_each_pass_has_an_optimizer_and_a_schedule_of_its_own() -> None:
    method = Witness(coarse=2)
    method.advance(None)
    full = [view.pixels for view in method.seen[2:]]
    # Adam's first step moves each pixel by the rate, whatever the gradient is; the rate is 0.5 * (3 - step)
    torch.testing.assert_close(full[0] - full[1], torch.full_like(full[0], 1.5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(full[1] - full[2], torch.full_like(full[0], 1.0), rtol=1e-4, atol=1e-4)


def test_the_networks_see_what_images_can_be_and_gradients_pass_the_clamp() -> None:
    method = Witness(rate=9.0)
    method.advance(None)
    last = method.seen[-1]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (SPEC.mean, SPEC.std))
    torch.testing.assert_close(last.images, (last.pixels * std + mean).clamp(0, 1))
    assert float((last.pixels * std + mean).max()) < 0, "not clipped: pixels wander outside"


def test_clipped_pixels_stay_what_images_can_be() -> None:
    method = Witness(rate=9.0, clip=True)
    method.advance(None)
    shown = method.seen[-1].pixels * torch.tensor(SPEC.std).view(1, -1, 1, 1) + torch.tensor(SPEC.mean).view(1, -1, 1, 1)
    torch.testing.assert_close(shown, torch.zeros_like(shown), atol=1e-6, rtol=0)


def test_views_are_rolled_and_mirrored_as_a_whole() -> None:
    still, moved = Witness(steps=1), Witness(steps=1, jitter=3, flip=True)
    rolled = set()
    for _ in range(12):
        still.advance(None)
        moved.advance(None)
        still._learning.set_state(moved._learning.get_state())  # which has drawn more: both begin the next batch alike
        plain, view = still.seen[-1].pixels, moved.seen[-1].pixels
        found = [
            (down, right, mirror)
            for down in range(-3, 4)
            for right in range(-3, 4)
            for mirror in (False, True)
            if torch.equal(view, plain.roll((down, right), (2, 3)).flip(3) if mirror else plain.roll((down, right), (2, 3)))
        ]
        assert len(found) == 1
        rolled.add(found[0])
    assert {mirror for *_, mirror in rolled} == {False, True}
    assert len({shift[:2] for shift in rolled}) > 6


def test_images_are_asked_for_where_gradients_are_off() -> None:
    with torch.no_grad():
        made = Witness().synthesize(5)
    assert made.images.shape == (5, *SPEC.shape)
    assert not made.images.requires_grad


def test_labels_that_nobody_asks_for_are_balanced_within_a_batch() -> None:
    method = Witness(batch=7)
    counts = torch.bincount(method.advance(None).batch.labels, minlength=3)  # type: ignore[union-attr, arg-type]
    assert sorted(counts.tolist()) == [2, 2, 3]


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_a_network_that_takes_its_own_size_alone_is_missed_by_name(whose: str) -> None:
    rigid = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 3)), SPEC, ("a", "b", "c")).freeze()
    networks = {"teacher": tiny_classifier(6, seed=1).freeze(), "student": tiny_classifier(4, seed=2), whose: rigid}
    settings = {"batch": 4, "steps": 1, "coarse_steps": 1, "moments_weight": 0}

    def run(**changes: Any) -> None:
        config = AdaptiveDeepInversionConfig.parse(settings | changes)
        AdaptiveDeepInversion(config, Ingredients(networks["teacher"], resolve_runtime("cpu", "float32"), 0)).advance(networks["student"])

    with pytest.raises(
        ConfigError, match=f"^coarse_steps shows the {whose} images of 4x4, and it takes 8x8 alone: set coarse_steps to 0[.]$"
    ):
        run()
    run(coarse_steps=0)


@pytest.mark.parametrize(("name", "changes"), [("steps", {"steps": 4}), ("coarse_steps", {"steps": 9, "coarse_steps": 4})])
def test_no_part_is_shorter_than_its_warm_up(name: str, changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"warmup_steps = 5 is more than {name} = 4, so the rate would never be reached: lower it, or"):
        DeepInversionConfig.parse({**changes, "warmup_steps": 5})
    config = DeepInversionConfig.parse({**changes, "warmup_steps": 4})
    assert DeepInversionConfig.parse(config.one_step().to_json()).rate_at(0, 1) == config.rate
