"""What a method with a conditional generator gets from the loop that such methods share."""

import copy
from typing import Any

import torch
from torch import Tensor

from contract.tiny import changed, flatten
from distillery.runtime import resolve_runtime
from distillery.synthesis.conditional import ConditionalSynthesizer
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.learner import Generated
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier
from equivalence.plain import tiny_classifier
from toy_methods import ToyDecoder, ToyDecoderConfig

SMALL: dict[str, Any] = {"generator": {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"}, "batch": 8}


class Witness(ConditionalSynthesizer[ConditionalConfig]):
    """Keeps what `terms` was given."""

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__("witness", ConditionalConfig.parse({**SMALL, "steps_per_round": 2}), ingredients)
        self.seen: list[tuple[Generated, Classifier | None]] = []
        self.modes: list[bool] = []

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        self.seen.append((made, student))
        if student is not None:
            self.modes.append(student.training or any(parameter.requires_grad for parameter in student.parameters()))
        return {"bright": made.images.mean()}


def ingredients() -> Ingredients:
    return Ingredients(tiny_classifier(6, seed=1).freeze(), resolve_runtime("cpu", "float32"), 0)


def decoder() -> ToyDecoder:
    return ToyDecoder(ToyDecoderConfig.parse({**SMALL, "steps_per_round": 2}), ingredients())


def test_a_loss_sees_each_step_s_images_and_a_student_that_is_only_looked_at() -> None:
    method, student = Witness(ingredients()), tiny_classifier(4, seed=2).train()
    turn = method.advance(student)
    first, last = method.seen[0][0], method.seen[1][0]
    assert (first.images.shape, first.labels.shape, first.latent.shape) == ((8, 2, 8, 8), (8,), (8, 6))
    assert [given is student for _, given in method.seen] == [True, True]
    assert method.modes == [False, False]
    assert student.training
    expected = (first.images.mean() + last.images.mean()) / 2
    torch.testing.assert_close(turn.terms["bright"], expected.detach())
    assert turn.batch is not None
    assert torch.equal(turn.batch.images, last.images)
    assert last.images.detach().mean() < first.images.detach().mean(), "the loss goes down"


def test_a_network_beside_the_generator_learns_and_is_part_of_the_state() -> None:
    left_alone = decoder()
    before = copy.deepcopy(flatten(left_alone.state_dict()["decoder"]))
    left_alone.advance(None)
    resumed = decoder()
    resumed.load_state_dict(copy.deepcopy(left_alone.state_dict()))
    learned = copy.deepcopy(flatten(left_alone.state_dict()["decoder"]))
    assert changed(before, learned) == set(before)
    left_alone.synthesize(5)
    assert changed(learned, flatten(left_alone.state_dict()["decoder"])) == set()
    resumed.synthesize(5)
    left_alone.advance(None)
    resumed.advance(None)
    assert changed(flatten(left_alone.state_dict()), flatten(resumed.state_dict())) == set()
