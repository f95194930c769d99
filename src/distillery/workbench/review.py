"""The look at a set before it is published: a collapsed one is warned of, or refused."""

import logging
from collections.abc import Sequence
from pathlib import Path

from distillery.data.shards import ShardEntry, add_up, sample_shards
from distillery.errors import ConfigError
from distillery.evaluation.features import penultimate
from distillery.evaluation.health import FILE, HealthConfig, HealthReport, flat_health, measure_health, save_health
from distillery.seeding import stream
from distillery.storage import Store
from distillery.workbench.assembly import Teacher
from distillery.workbench.bench import Workbench

logger = logging.getLogger(__name__)


class Reviewer:
    """Measures the health of one set, and tells log and tracker.

    Args:
        bench: the open step.
        teacher: that labelled the images, on its device.
        config: the thresholds.
        strict: whether a finding is an error.
    """

    report: HealthReport

    def __init__(self, bench: Workbench, teacher: Teacher, config: HealthConfig, strict: bool) -> None:
        self._bench = bench
        self._teacher = teacher
        self._config = config
        self._strict = strict

    def __call__(self, store: Store, entries: Sequence[ShardEntry]) -> None:
        """Look at the training shards.

        Raises:
            ConfigError: under `strict`, naming all findings.
            StoreError: a shard is damaged.
        """
        self.report = review_shards(store, entries, self._teacher, self._config)
        findings = self.report.findings
        self._bench.tracker.tags({"health": " ".join(findings) or "no findings"})
        self._bench.tracker.json(FILE, self.report.to_json())
        for finding in findings:
            logger.warning("Health of the set: %s", finding)
        if findings and self._strict:
            self._bench.tracker.metrics(flat_health(self.report))
            sentences = "; ".join(finding.rstrip(".") for finding in findings)
            raise ConfigError(
                f"The set has collapsed and set.strict is on, so nothing is published: {sentences}; give the method more steps "
                "or other weights, or change the thresholds in health."
            )

    def keep(self, folder: Path) -> dict[str, float]:
        """Write the report into a folder of the step's outputs, and return its numbers."""
        save_health(folder / FILE, self.report, self._bench.provenance)
        return flat_health(self.report)


def review_shards(store: Store, entries: Sequence[ShardEntry], teacher: Teacher, config: HealthConfig) -> HealthReport:
    """Health of the training shards among `entries`; which images are looked at depends on their number only."""
    train = [entry for entry in entries if entry.role == "train"]
    sample = sample_shards(store, train, config.sample, stream(0, "health"))
    counts = add_up((entry.counts for entry in train), teacher.classifier.num_classes)
    return measure_health(counts, sample.teacher_logits, penultimate(teacher.classifier, sample.images), config)
