"""What a share is said to take, against hand counts, and against what a share does take."""

from typing import Any

import pytest
import torch
from torch import nn

from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.runtime import resolve_runtime
from distillery.synthesis.protocol import Ingredients
from distillery.synthesis.share import Share
from distillery.synthesis.stack_memory import StackMemory, stack_memory
from distillery.types import Classifier
from equivalence.plain import SPEC, moments_of, tiny_classifier

CPU = torch.device("cpu")


def settings(**changes: Any) -> LSGDFDConfig:
    generator = {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"}
    return LSGDFDConfig.parse({"generator": generator, "batch": 8, "steps_per_round": 1, **changes})


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        return [found for part in value.values() for found in tensors(part)]
    if isinstance(value, list):
        return [found for part in value for found in tensors(part)]
    return [value] if isinstance(value, torch.Tensor) else []


def size(values: Any) -> int:
    return sum(value.numel() * value.element_size() for value in tensors(values))


@pytest.mark.parametrize("total", [2, 3])
def test_weights_and_moments_are_those_of_a_generator(total: int) -> None:
    teacher = tiny_classifier(6, seed=1).freeze()
    told = stack_memory(settings(), teacher, total, CPU)
    share = Ingredients(teacher, resolve_runtime("cpu", "float32"), 0, moments_of(teacher), share=Share(total - 1, total, total))
    method = LSGDFD(settings(), share)
    method.advance(None)
    state = method.state_dict()
    assert told.weights == size(state["generators"])
    steps = sum(4 for _ in state["optimizers"][0])  # a count a weight, which nobody needs to know of
    assert told.optimizer == size(state["optimizers"]) - steps
    assert told.gradients == 3 * told.optimizer // 2


def test_activations_grow_with_the_batch_and_are_those_of_both_networks() -> None:
    teacher = tiny_classifier(6, seed=1).freeze()
    small, large = stack_memory(settings(), teacher, 3, CPU), stack_memory(settings(batch=24), teacher, 3, CPU)
    assert large.activations == 3 * small.activations
    assert (large.weights, large.optimizer) == (small.weights, small.optimizer)
    images_and_maps = 8 * 4 * (4 * 8 * 8 + 2 * 8 * 8 + 6 * 8 * 8 + 6 * 4 * 4)  # a map of the generator, its images, two of the teacher
    assert small.activations > 2 * images_and_maps
    wide = tiny_classifier(60, seed=1).freeze()
    assert stack_memory(settings(), wide, 3, CPU).activations > 3 * small.activations


def test_nothing_is_computed_on_the_meta_device_and_nothing_drawn_from_the_global_stream() -> None:
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    teacher = Classifier(network, SPEC, ("a", "b", "c")).freeze().to("meta")
    before = torch.random.get_rng_state()
    assert stack_memory(settings(), teacher, 3, CPU).activations > 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_share_is_cut_to_a_budget() -> None:
    memory = StackMemory(weights=10, optimizer=20, gradients=30, activations=40, learning=3)
    assert [memory.of(count) for count in (1, 2, 3, 4, 5)] == [100, 200, 300, 330, 360]
    assert [memory.most(budget) for budget in (99, 100, 199, 299, 300, 329, 330, 365)] == [0, 1, 1, 2, 3, 3, 4, 5]
