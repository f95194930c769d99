"""The step that leaves a teacher's BatchNorm moments in one file: those of its buffers, or of a file that the run was given."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.methods.catalog import Supply, methods_fitting
from distillery.provenance import check_pinned
from distillery.recipes.sections import StatisticsSection
from distillery.statistics.extract import global_moments
from distillery.statistics.layers import find_layers
from distillery.statistics.moments import Moments, save_moments
from distillery.step_table import StatisticsFile
from distillery.types import Classifier
from distillery.workbench.assembly import open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.moments import FIELD, open_moments

STEP = "extract_statistics"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        synth_statistics_uri: a file of moments, the one that the plan saw; "" for none.
    """

    teacher_uri: str
    synth_statistics_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the moments."""

    statistics: StatisticsFile


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Write a teacher's global moments, or those of a file that is given.

    Args:
        section: a `StatisticsSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        layers: visits of layers with running statistics, see `find_layers`; channels: of all of them together; images: that
        those of a file were measured on, where it says so.

    Raises:
        CheckpointMismatchError: another teacher than the plan was made for, or another file of moments than it saw.
        ConfigError: a file of moments where the plan saw none, or none where it saw one.
        MissingResourceError: there is no bundle, or no file of moments there.
        StoreError: damaged weights or moments, or a file that cannot be written.
    """
    parsed = StatisticsSection.parse(section, "statistics")
    if bool(inputs.synth_statistics_uri) != bool(parsed.given_sha256):
        raise ConfigError(
            f"{spoken(FIELD)} = {inputs.synth_statistics_uri!r}, but the run was planned {'with' if parsed.given_sha256 else 'without'} a "
            "file of moments: give the step what the plan was given."
        )
    if parsed.given_sha256:
        return _take(parsed, inputs, outputs)
    teacher = open_teacher(parsed, inputs.teacher_uri)
    with workbench(STEP, parsed, {"teacher": teacher.sha256}) as bench:
        return bench.do(vars(outputs), lambda: _leave(bench, read_moments(teacher.classifier, teacher.sha256), outputs, {}))


def _take(section: StatisticsSection, inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Leave the moments of a given file, with the step as where they come from: the file's own hash is one of its inputs."""
    teacher = open_teacher(section, inputs.teacher_uri)
    given = open_moments(inputs.synth_statistics_uri, teacher.sha256, teacher.classifier.class_names)
    check_pinned(f"The file of moments {given.uri!r}", given.digest, section.given_sha256)
    counts = given.moments.counts
    counted = {} if counts is None else {"images": float(counts.sum())}
    with workbench(STEP, section, {"teacher": teacher.sha256, "moments": given.digest}) as bench:
        return bench.do(vars(outputs), lambda: _leave(bench, given.moments, outputs, counted))


def _leave(bench: Workbench, moments: Moments, outputs: Outputs, counted: Mapping[str, float]) -> dict[str, float]:
    save_moments(outputs.statistics, moments, bench.provenance)
    layers, channels = len(moments.mean), sum(value.shape[-1] for value in moments.mean.values())
    bench.progress.write("statistics", layers, layers, {"channels": channels})
    return {"layers": float(layers), "channels": float(channels), **counted}


def read_moments(teacher: Classifier, teacher_sha256: str) -> Moments:
    """Global moments of a teacher; of no layer where a forward pass visits none that has any, for methods that do without."""
    layers = find_layers(teacher)
    if layers.visits:
        if layers.left_out:
            logger.warning("The file holds the moments of %d layers%s.", len(layers.visits), layers.exceptions())
        return global_moments(teacher, teacher_sha256, layers)
    logger.warning(
        "The teacher has no BatchNorm2d%s, so the file holds no moments; what works without: %s.",
        layers.exceptions(),
        methods_fitting(Supply(batchnorm=False, ood=True)),
    )
    return Moments("global", {}, {}, teacher_sha256)
