"""Has a synthetic set collapsed? Its classes, the teacher's confidence, and how unlike each other its images are."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.documents import Format
from distillery.errors import MissingResourceError
from distillery.evaluation.diversity import Diversity, class_entropy
from distillery.evaluation.features import LOGITS, Features
from distillery.grammar import counted
from distillery.provenance import Provenance
from distillery.storage import open_store

FORMAT = Format("distillery-health", 2, "make the set again")
FILE = "health.json"

_ENOUGH = 10  # images a class on average, below which a rare class is chance


class HealthConfig(Config):
    """When a set counts as collapsed; a value at its end of the range turns a check off.

    Attributes:
        sample: training images that are looked at, drawn at random; the class histogram counts all.
        min_entropy: of the teacher's class histogram, as a share of a uniform one's.
        min_class_share: of the rarest class, as a share of its even part.
        min_confidence: mean of the teacher's highest probability, scaled so that chance is 0.
        min_distance: mean cosine distance between the features of two images.
        min_class_distance: the same of two images of one class; asked of penultimate features only, and of two images a class or more.
        min_directions: participation ratio of the features; never more than half of what K classes span, K - 1, is asked.
        duplicate_similarity: cosine of features above which an image nearly repeats another.
        max_duplicates: share of images that nearly repeat an earlier one.
    """

    sample: int = Field(default=4096, ge=2)
    min_entropy: float = Field(default=0.85, ge=0, le=1)
    min_class_share: float = Field(default=0.1, ge=0, le=1)
    min_confidence: float = Field(default=0.3, ge=0, le=1)
    min_distance: float = Field(default=0.1, ge=0, le=2)
    min_class_distance: float = Field(default=0.02, ge=0, le=2)
    min_directions: float = Field(default=2.0, ge=0)
    duplicate_similarity: float = Field(default=0.999, gt=0, lt=1)
    max_duplicates: float = Field(default=0.3, ge=0, le=1)


class HealthReport(Config):
    """What was measured, and what is wrong.

    Attributes:
        images: training images of the set.
        sampled: those that were looked at.
        features: path of the teacher's layer whose input was compared, or `logits`.
        counts: training images by the teacher's argmax.
        entropy: of `counts`, as a share of the largest.
        class_share: of the rarest class, as a share of its even part.
        confidence: mean of the teacher's highest probability.
        diversity: of the features.
        config: the thresholds.
        findings: one sentence for each threshold that was passed; empty for a healthy set.
    """

    images: int = Field(ge=1)
    sampled: int = Field(ge=1)
    features: str
    counts: tuple[int, ...]
    entropy: float
    class_share: float
    confidence: float
    diversity: Diversity
    config: HealthConfig
    findings: tuple[str, ...] = ()

    @property
    def asks_classes(self) -> bool:
        """Whether the distance within a class says something: the logits of a class point one way in any good set."""
        return self.features != LOGITS and self.sampled >= 2 * len(self.counts)


def measure_health(counts: Sequence[int], logits: Tensor, features: Features, config: HealthConfig) -> HealthReport:
    """Measure a set.

    Args:
        counts: all training images by the teacher's argmax, one number a class, not all 0.
        logits: the teacher's (N, K), of a sample of them.
        features: of the same sample.
        config: the thresholds.
    """
    probabilities = logits.double().softmax(1)
    report = HealthReport(
        images=sum(counts),
        sampled=len(logits),
        features=features.source,
        counts=tuple(counts),
        entropy=class_entropy(tuple(counts)),
        class_share=min(counts) * len(counts) / sum(counts),
        confidence=float(probabilities.amax(1).mean()),
        diversity=Diversity.measure(features.values, logits.argmax(1), config.duplicate_similarity),
        config=config,
    )
    return report.model_copy(update={"findings": (*_class_findings(report), *_image_findings(report))})


def flat_health(report: HealthReport) -> dict[str, float]:
    """The report as numbers by stable name, for KFP metrics and the tracker; `health/findings` counts the sentences."""
    numbers = {
        "findings": len(report.findings),
        "entropy": report.entropy,
        "class_share": report.class_share,
        "confidence": report.confidence,
        **report.diversity.to_json(),
    }
    return {f"health/{name}": float(value) for name, value in numbers.items()}


def save_health(path: Path, report: HealthReport, provenance: Provenance) -> None:
    """Write a report atomically as JSON with format, version and provenance."""
    open_store(str(path.parent)).write(path.name, FORMAT.write(provenance, report.to_json()))


def load_health(path: Path) -> HealthReport:
    """Read a report.

    Raises:
        MissingResourceError: no such file.
        StoreError: it is damaged.
        CheckpointMismatchError: another format or a newer version.
    """
    if not path.is_file():
        raise MissingResourceError(f"There is no health report at {str(path)!r}: run the step that makes the set first.")
    return FORMAT.read(path.read_bytes(), str(path)).parse(HealthReport)


def _class_findings(report: HealthReport) -> list[str]:
    config, counts = report.config, report.counts
    found = []
    if report.entropy < config.min_entropy:
        found.append(
            f"The teacher's classes are uneven: the entropy of their histogram is {report.entropy:.2f} of a uniform one's, "
            f"below {config.min_entropy:g}."
        )
    if report.class_share < config.min_class_share and report.images >= _ENOUGH * len(counts):
        limit = config.min_class_share * report.images / len(counts)
        rare = sum(count < limit for count in counts)
        found.append(
            f"{rare} of {len(counts)} classes {'are' if rare > 1 else 'is'} missing or rare: class {counts.index(min(counts))} has "
            f"{min(counts)} of {counted(report.images, 'image')}, below {config.min_class_share:.0%} of an even part."
        )
    chance = 1 / len(counts)
    if (report.confidence - chance) / (1 - chance) < config.min_confidence:
        found.append(
            f"The teacher is unsure of the images: its mean confidence is {report.confidence:.2f}, below "
            f"{chance + config.min_confidence * (1 - chance):.2f} for {len(counts)} classes."
        )
    return found


def _image_findings(report: HealthReport) -> list[str]:
    config, diversity = report.config, report.diversity
    found = []
    if diversity.distance < config.min_distance:
        found.append(
            f"The images look alike to the teacher: the mean cosine distance between two is {diversity.distance:.3f}, "
            f"below {config.min_distance:g}."
        )
    if report.asks_classes and diversity.class_distance < config.min_class_distance:
        found.append(
            f"The images of a class look alike to the teacher: the mean cosine distance between two is {diversity.class_distance:.3f}, "
            f"below {config.min_class_distance:g}."
        )
    needed = min(config.min_directions, (len(report.counts) - 1) / 2)
    if diversity.directions < needed:
        found.append(f"The features of the images vary in {diversity.directions:.2f} directions, below {needed:g}.")
    if diversity.duplicates > config.max_duplicates:
        found.append(
            f"{diversity.duplicates:.0%} of the images nearly repeat an earlier one (cosine above {config.duplicate_similarity:g}), "
            f"above {config.max_duplicates:.0%}."
        )
    return found
