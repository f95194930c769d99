"""Which sets count as collapsed, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError
from distillery.evaluation.features import Features
from distillery.evaluation.health import HealthConfig, HealthReport, flat_health, load_health, measure_health, save_health
from distillery.provenance import Provenance

NUM, K = 400, 10
CLASSES = torch.arange(NUM) % K


def one_hot(classes: Tensor, scale: float = 6.0) -> Tensor:
    return torch.nn.functional.one_hot(classes, K) * scale


def spread(noise: float = 0.3) -> Tensor:
    """Features as a good teacher has them: around one direction a class, never below 0."""
    return (torch.nn.functional.one_hot(CLASSES, 32) + noise * torch.rand(NUM, 32, generator=torch.Generator().manual_seed(0))).float()


def report(features: Tensor | None = None, classes: Tensor = CLASSES, logits: Tensor | None = None, **config: Any) -> HealthReport:
    counts = torch.bincount(classes, minlength=K).tolist()
    values = spread() if features is None else features
    return measure_health(counts, one_hot(classes) if logits is None else logits, Features(values, "head"), HealthConfig(**config))


def test_a_spread_set_is_healthy() -> None:
    found = report()
    assert found.findings == ()
    assert (found.images, found.sampled, found.features) == (NUM, NUM, "head")
    assert (found.entropy, found.class_share) == (pytest.approx(1), pytest.approx(1))
    assert found.confidence == pytest.approx(torch.tensor([6.0] + [0.0] * 9).softmax(0)[0].item())


def one_line(width: int = 32) -> Tensor:
    return torch.ones(NUM, width) + torch.linspace(-3, 3, NUM)[:, None] * torch.eye(width)[0] * 5


COLLAPSED: dict[str, tuple[dict[str, Any], str]] = {
    "uneven": (
        {"classes": torch.cat([CLASSES[:100], torch.zeros(300, dtype=torch.int64)])},
        "The teacher's classes are uneven: the entropy of their histogram is 0.45 of a uniform one's, below 0.85.",
    ),
    "one class gone": (
        {"classes": torch.where(CLASSES == 7, 3, CLASSES)},
        "1 of 10 classes is missing or rare: class 7 has 0 of 400 images, below 10% of an even part.",
    ),
    "unsure": (
        {"logits": one_hot(CLASSES, 1.0)},
        "The teacher is unsure of the images: its mean confidence is 0.23, below 0.37 for 10 classes.",
    ),
    "alike": (
        {"features": torch.ones(NUM, 32) + 0.3 * torch.rand(NUM, 32, generator=torch.Generator().manual_seed(0))},
        "The images look alike to the teacher: the mean cosine distance between two is 0.005, below 0.1.",
    ),
    "one soft image a class": (
        {"features": spread(0.08)},
        "The images of a class look alike to the teacher: the mean cosine distance between two is 0.014, below 0.02.",
    ),
    "on a line": ({"features": one_line()}, "The features of the images vary in 1.00 directions, below 2."),
    "one image a class": (
        {"features": spread(0.0)},
        "98% of the images nearly repeat an earlier one (cosine above 0.999), above 30%.",
    ),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_each_collapse_has_its_sentence(name: str) -> None:
    changes, sentence = COLLAPSED[name]
    assert sentence in report(**changes).findings


@pytest.mark.parametrize(
    ("name", "sentences"), [("one class gone", 1), ("unsure", 1), ("one soft image a class", 1), ("alike", 2), ("one image a class", 2)]
)
def test_a_collapse_of_one_kind_has_no_other_sentence(name: str, sentences: int) -> None:
    found = report(**COLLAPSED[name][0]).findings
    assert len(found) == sentences
    assert sentences == 1 or "images of a class look alike" in " ".join(found)


def test_a_class_is_measured_by_features_and_where_it_has_images() -> None:
    alike = spread(0.08)
    assert measure_health([40] * K, one_hot(CLASSES), Features(alike, "logits"), HealthConfig()).findings == ()
    counts = [2] * K
    for sampled, findings in ((2 * K, 1), (2 * K - 1, 0)):
        found = measure_health(counts, one_hot(CLASSES)[:sampled], Features(alike[:sampled], "head"), HealthConfig())
        assert len(found.findings) == findings


def test_every_check_can_be_turned_off() -> None:
    worst = {"features": torch.ones(NUM, 32), "classes": torch.zeros_like(CLASSES), "logits": torch.zeros(NUM, K)}
    off = {"min_entropy": 0, "min_class_share": 0, "min_confidence": 0, "min_distance": 0, "min_directions": 0, "max_duplicates": 1}
    off["min_class_distance"] = 0
    assert len(report(**worst).findings) == 7
    assert report(**worst, **off).findings == ()


def test_a_value_at_its_threshold_is_healthy() -> None:
    found = report()
    diversity = found.diversity
    exact = {"min_entropy": found.entropy, "min_class_share": found.class_share, "min_distance": diversity.distance}
    exact["min_class_distance"] = diversity.class_distance
    assert report(**exact, min_directions=diversity.directions - 1e-9).findings == ()
    copies = spread()
    copies[200:] = copies[:200]
    assert report(features=copies, max_duplicates=0.5).findings == ()
    assert len(report(features=copies, max_duplicates=0.49).findings) == 1


def test_few_images_are_not_blamed_for_a_rare_class() -> None:
    counts = [9] * 9 + [0]
    logits, features = one_hot(torch.arange(81) % 9), Features(spread()[:81], "head")
    assert measure_health(counts, logits, features, HealthConfig()).findings == ()
    assert measure_health([count * 2 for count in counts], logits, features, HealthConfig()).findings != ()


def test_two_classes_need_no_two_directions() -> None:
    classes = torch.arange(100) % 2
    features = torch.nn.functional.one_hot(classes, 8) + 0.4 * torch.rand(100, 8)
    logits = torch.nn.functional.one_hot(classes, 2) * 9.0
    found = measure_health([50, 50], logits, Features(features, "head"), HealthConfig())
    assert found.diversity.directions < 1.5
    assert found.findings == ()


def test_flat_numbers_have_stable_names() -> None:
    found = report(features=torch.ones(NUM, 32))
    flat = flat_health(found)
    names = {"findings", "entropy", "class_share", "confidence", "distance", "class_distance", "directions", "duplicates"}
    assert set(flat) == {f"health/{name}" for name in names}
    assert flat["health/findings"] == len(found.findings) == 4
    assert flat["health/duplicates"] == pytest.approx(0.9975)


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    made = report(features=torch.ones(NUM, 32))
    save_health(path, made, Provenance(code_version="c"))
    assert load_health(path) == made
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(CheckpointMismatchError, match="version"):
        load_health(path)
    with pytest.raises(MissingResourceError, match="There is no health report"):
        load_health(tmp_path / "other.json")


@pytest.mark.parametrize(
    "change", [{"min_entropy": 1.5}, {"max_duplicates": -1}, {"duplicate_similarity": 1.0}, {"sample": 1}, {"strict": 1}]
)
def test_thresholds_outside_their_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="health"):
        HealthConfig.parse(change, "health")
