"""The step that reads the teacher's BatchNorm moments into one file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.methods.catalog import methods_without
from distillery.models.bundle import count_batchnorm, fetch_bundle, load_classifier
from distillery.recipes.schema import StatisticsSection
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import Moments, save_moments
from distillery.steps.workbench import reporting, workbench, workspace
from distillery.types import Classifier

STEP = "extract_statistics"

logger = logging.getLogger(__name__)


@reporting(STEP)
def run(section: Mapping[str, Any], teacher_uri: str, statistics_path: Path) -> dict[str, float]:
    """Read a teacher's global moments.

    Args:
        section: a `StatisticsSection` as JSON.
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics_path: the file to write.

    Returns:
        layers: BatchNorm2d layers read; channels: of all layers together.

    Raises:
        CheckpointMismatchError: another teacher than the plan was made for.
        MissingResourceError: there is no bundle.
        StoreError: damaged weights, or a file that cannot be written.
    """
    parsed = StatisticsSection.parse(section, "statistics")
    teacher = load_classifier(fetch_bundle(teacher_uri, workspace() / "bundles"), parsed.teacher_sha256).freeze()
    outputs = {"statistics": statistics_path}
    with workbench(STEP, parsed, {"teacher": parsed.teacher_sha256}) as bench:
        if (done := bench.finished(outputs)) is not None:
            return done
        moments = read_moments(teacher, parsed.teacher_sha256)
        save_moments(statistics_path, moments, bench.provenance)
        layers, channels = len(moments.mean), sum(len(value) for value in moments.mean.values())
        bench.progress.write("statistics", layers, layers, {"channels": channels})
        return bench.finish(outputs, {"layers": float(layers), "channels": float(channels)})


def read_moments(teacher: Classifier, teacher_sha256: str) -> Moments:
    """Global moments of a teacher; of no layer where it has no BatchNorm2d, for methods that do without."""
    if count_batchnorm(teacher):
        return global_moments(teacher, teacher_sha256)
    logger.warning("The teacher has no BatchNorm2d, so the file holds no moments; what works without: %s.", methods_without("moments"))
    return Moments("global", {}, {}, teacher_sha256)
