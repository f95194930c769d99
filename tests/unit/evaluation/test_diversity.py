"""Diversity measures against slow references: every pair in a Python loop, in float64."""

import math

import pytest
import torch
from torch import Tensor

from distillery.evaluation import diversity
from distillery.evaluation.diversity import Diversity, class_entropy, is_duplicate, mean_distance, participation_ratio, unit_vectors


def cosine(first: Tensor, second: Tensor) -> float:
    """Of two feature vectors; zero ones are alike, and at right angles to all others."""
    lengths = float(first.norm()), float(second.norm())
    if not all(lengths):
        return float(lengths == (0.0, 0.0))
    return float(first @ second) / (lengths[0] * lengths[1])


def slow_distance(features: Tensor) -> float:
    pairs = [(i, j) for i in range(len(features)) for j in range(i)]
    return sum(1 - cosine(features[i], features[j]) for i, j in pairs) / len(pairs) if pairs else 0.0


def slow_class_distance(features: Tensor, classes: Tensor) -> float:
    pairs = [(i, j) for i in range(len(features)) for j in range(i) if classes[i] == classes[j]]
    return sum(1 - cosine(features[i], features[j]) for i, j in pairs) / max(len(pairs), 1)


def slow_duplicates(features: Tensor, similarity: float) -> list[bool]:
    return [any(cosine(features[i], features[j]) > similarity for j in range(i)) for i in range(len(features))]


def slow_directions(features: Tensor) -> float:
    values = torch.linalg.eigvalsh(torch.cov(features.T, correction=0)).clamp(min=0)
    return float(values.sum() ** 2 / values.square().sum())


@pytest.fixture(params=[(37, 5), (6, 20)], ids=["more images", "more features"])
def features(request: pytest.FixtureRequest) -> Tensor:
    num, width = request.param
    made = torch.randn(num, width, dtype=torch.float64) * torch.arange(1, width + 1) + 1
    made[2] = 1.001 * made[1]  # the same direction
    made[3] = made[5] = 0.0
    return made


def test_distances_are_means_over_all_pairs(features: Tensor) -> None:
    assert mean_distance(unit_vectors(features)) == pytest.approx(slow_distance(features), abs=1e-12)


def test_class_distance_is_over_pairs_within_classes(features: Tensor) -> None:
    classes = torch.tensor([0, 2, 2, 5, 2, 0] * 7)[: len(features)]
    found = Diversity.measure(features, classes, 0.99)
    assert found.class_distance == pytest.approx(slow_class_distance(features, classes), abs=1e-12)
    assert found.distance == pytest.approx(slow_distance(features), abs=1e-12)


def test_directions_are_the_participation_ratio_of_the_covariance(features: Tensor) -> None:
    assert participation_ratio(features) == pytest.approx(slow_directions(features), rel=1e-9)


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("similarity", [0.2, 0.999])
def test_duplicates_are_those_of_every_pair(features: Tensor, similarity: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_BLOCK", block)
    found = is_duplicate(unit_vectors(features), similarity).tolist()
    assert found == slow_duplicates(features, similarity)
    assert sum(found) >= 2, "the planted ones"
    assert not found[0], "the first of its kind is no duplicate"


def test_known_values() -> None:
    cross = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert participation_ratio(cross) == pytest.approx(2)
    assert mean_distance(unit_vectors(cross)) == pytest.approx((4 * 1 + 2 * 2) / 6)
    assert participation_ratio(torch.tensor([[0.0, 1], [2, 1], [7, 1]])) == pytest.approx(1)


def test_equal_features_have_no_diversity() -> None:
    equal = Diversity.measure(torch.rand(1, 7).expand(50, 7), torch.zeros(50, dtype=torch.int64), 0.999)
    assert (equal.distance, equal.class_distance, equal.directions, equal.duplicates) == (pytest.approx(0), pytest.approx(0), 0.0, 0.98)


def test_one_image_is_no_collapse_by_itself() -> None:
    alone = Diversity.measure(torch.rand(1, 7), torch.zeros(1, dtype=torch.int64), 0.999)
    assert alone.duplicates == 0.0
    assert math.isfinite(alone.distance + alone.class_distance + alone.directions)


def test_order_does_not_matter_where_all_pairs_count(features: Tensor) -> None:
    mixed = features[torch.randperm(len(features))]
    assert mean_distance(unit_vectors(mixed)) == pytest.approx(mean_distance(unit_vectors(features)))
    assert participation_ratio(mixed) == pytest.approx(participation_ratio(features))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5, 5, 5, 5), 1.0),
        ((9, 0, 0), 0.0),
        ((0, 0), 0.0),
        ((1, 3), -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))),
        ((2, 2, 0, 0), 0.5),
        ((1, 1, 0, 0, 0, 0, 0, 0), 1.0),  # two images cannot be in more than two classes
    ],
)
def test_class_entropy(counts: tuple[int, ...], expected: float) -> None:
    assert class_entropy(counts) == pytest.approx(expected, abs=1e-12)
