"""Shares drawn from as one: each image is of the share that owns its class, in the order asked for, and a draw can be taken up again."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.runtime import resolve_runtime
from distillery.seeding import stream
from distillery.synthesis.ensemble import Ensemble
from distillery.synthesis.protocol import SAMPLING, Ingredients
from distillery.synthesis.share import Share
from distillery.types import Batch, Classifier
from fakes import tiny_teacher


class Part:
    """Makes images whose pixels are the label, but for one, which is the next number of its stream."""

    def __init__(self, share: Share, num_classes: int) -> None:
        slices = share.classes(num_classes)
        self.owned = range(slices[0].start, slices[-1].stop)
        self.draws = stream(share.first, "part")

    def synthesize(self, n: int, labels: Tensor, student: Classifier | None = None) -> Batch:
        assert {int(label) for label in labels} <= set(self.owned)
        images = labels.float()[:, None, None, None].expand(n, 1, 8, 8).clone()
        images[:, 0, 0, 0] = torch.rand(n, generator=self.draws)
        return Batch(images, labels)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": torch.ones(1000), SAMPLING: self.draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert "weights" in state
        self.draws.set_state(state[SAMPLING])


@pytest.fixture
def ensemble() -> Ensemble:
    ingredients = Ingredients(tiny_teacher(steps=0), resolve_runtime("cpu", "float32"), 3)
    shares = (Share(0, 1, 3), Share(1, 3, 3))
    return Ensemble([(share, Part(share, 4)) for share in shares], ingredients)  # type: ignore[misc]


def test_each_label_comes_from_its_owner_in_the_order_asked_for(ensemble: Ensemble) -> None:
    labels = torch.tensor([3, 0, 2, 0, 1, 3])
    made = ensemble.synthesize(6, labels)
    assert torch.equal(made.images[:, 0, 1, 1], labels.float())
    assert torch.equal(made.labels, labels)


def test_without_labels_every_class_is_asked_for(ensemble: Ensemble) -> None:
    made = ensemble.synthesize(200)
    assert torch.bincount(made.labels, minlength=4).min() > 25
    assert torch.equal(made.images[:, 0, 1, 1], made.labels.float())


def test_a_draw_is_taken_up_where_it_was_and_its_state_holds_no_weights(ensemble: Ensemble) -> None:
    ensemble.synthesize(5)
    state = ensemble.state_dict()
    assert "weights" not in str(state)
    after = [ensemble.synthesize(7).images for _ in range(2)]
    ensemble.load_state_dict(state)
    assert all(torch.equal(ensemble.synthesize(7).images, images) for images in after)


def test_what_one_share_makes_depends_on_no_other(ensemble: Ensemble) -> None:
    state = ensemble.state_dict()
    alone = ensemble.synthesize(3, torch.tensor([2, 3, 2])).images
    ensemble.load_state_dict(state)
    beside = ensemble.synthesize(5, torch.tensor([0, 2, 0, 3, 2])).images
    assert torch.equal(beside[[1, 3, 4]], alone)


def test_nobody_trains_it(ensemble: Ensemble) -> None:
    with pytest.raises(NotImplementedError):
        ensemble.advance(None)
