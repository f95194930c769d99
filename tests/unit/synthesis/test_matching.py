"""Which moments a method matches."""

import pytest
import torch

from distillery.errors import ConfigError
from distillery.losses.moments import LayerMoments
from distillery.statistics.moments import Moments
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients
from fakes import CPU, tiny_teacher


def test_moments_of_classes_are_refused_where_global_ones_are_matched() -> None:
    teacher = tiny_teacher(steps=1)
    rows = {"network.stem": torch.zeros(4, 8)}
    ingredients = Ingredients(teacher, CPU, 0, Moments("per_class", rows, rows, "t" * 64, torch.ones(4, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="fast_dfkd matches a teacher's global moments and got moments of kind per_class"):
        build_matcher("fast_dfkd", 1.0, ingredients)
    build_matcher("fast_dfkd", 0.0, ingredients)


def test_moments_of_classes_are_taken_from_a_method_that_says_whose_images_are() -> None:
    teacher = tiny_teacher(steps=1)
    rows = {"network.stem": torch.zeros(4, 8)}
    ingredients = Ingredients(teacher, CPU, 0, Moments("per_class", rows, rows, "t" * 64, torch.ones(4, dtype=torch.int64)))
    matcher = build_matcher("toy", 1.0, ingredients, by_class=True)
    assert matcher.distance([LayerMoments(torch.ones(2, 8), torch.zeros(2, 8))], torch.tensor([1, 3])).item() == pytest.approx(2 * 8**0.5)
