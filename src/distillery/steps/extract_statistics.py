"""The step that writes a teacher's BatchNorm moments into one file: from its buffers, or measured for each class on labelled images."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.errors import ConfigError
from distillery.methods.catalog import Supply, methods_fitting
from distillery.recipes.sections import StatisticsSection
from distillery.statistics.extract import class_moments, global_moments
from distillery.statistics.layers import find_layers
from distillery.statistics.moments import Moments, save_moments
from distillery.step_table import StatisticsFile
from distillery.types import Classifier
from distillery.workbench.assembly import Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.sources import RealSource, open_real

STEP = "extract_statistics"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        data_uri: labelled images of every class, for moments of kind per_class; pipelines give none.
    """

    teacher_uri: str
    data_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the moments."""

    statistics: StatisticsFile


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Write a teacher's global moments, or those of each class.

    Args:
        section: a `StatisticsSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        layers: visits of layers with running statistics, see `find_layers`; channels: of all of them together; images: that were
            measured on, where there are any.

    Raises:
        CheckpointMismatchError: another teacher than the plan was made for.
        ConfigError: per-class moments without images or of a teacher without BatchNorm2d; images that do not fit the teacher, or that
            leave out a class.
        MissingResourceError: there is no bundle, or no images there.
        StoreError: damaged weights or images, or a file that cannot be written.
    """
    parsed = StatisticsSection.parse(section, "statistics")
    if parsed.kind == "per_class" and not inputs.data_uri:
        raise ConfigError("Moments of kind per_class are measured on labelled images: give some, or ask for kind global.")
    if parsed.kind == "global" and inputs.data_uri:
        raise ConfigError(
            f"Moments of kind global are the teacher's own: leave the images {inputs.data_uri!r} out, or ask for kind per_class."
        )
    teacher = open_teacher(parsed, inputs.teacher_uri)
    source = open_real(inputs.data_uri, teacher) if inputs.data_uri else None
    with workbench(STEP, parsed, {"teacher": teacher.sha256, **(source.inputs if source else {})}) as bench:
        return bench.do(vars(outputs), lambda: _measure(bench, teacher, source, outputs))


def _measure(bench: Workbench, teacher: Teacher, source: RealSource | None, outputs: Outputs) -> dict[str, float]:
    if source is None:
        moments, counted = read_moments(teacher.classifier, teacher.sha256), {}
    else:
        source.show(bench)
        placed, labelled = bench.runtime.place(teacher.classifier), source.labelled
        moments = class_moments(placed, labelled.images, labelled.labels, teacher.sha256)
        counted = {"images": float(len(labelled))}
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
