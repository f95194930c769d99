"""The step that leaves a teacher's BatchNorm moments in one file: from its buffers, measured class by class, or as they were given."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.methods.catalog import Supply, methods_fitting
from distillery.provenance import check_pinned
from distillery.recipes.sections import StatisticsSection
from distillery.statistics.extract import class_moments, global_moments
from distillery.statistics.layers import find_layers
from distillery.statistics.moments import Moments, save_moments
from distillery.step_table import StatisticsFile
from distillery.types import Classifier
from distillery.workbench.assembly import Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.class_images import ClassImages, open_class_images
from distillery.workbench.moments import FIELD, open_moments

STEP = "extract_statistics"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        data_uri: labelled images of every class, for moments of kind per_class; pipelines give none.
        set_uri: a synthetic set of every class instead; pipelines give none.
        synth_statistics_uri: a file of moments, the one that the plan saw; "" for none.
    """

    teacher_uri: str
    data_uri: str = ""
    set_uri: str = ""
    synth_statistics_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the moments."""

    statistics: StatisticsFile


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Write a teacher's global moments, or those of each class, measured here or in a file that is given.

    Args:
        section: a `StatisticsSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        layers: visits of layers with running statistics, see `find_layers`; channels: of all of them together; images: that were
            measured on, where there are any.

    Raises:
        CheckpointMismatchError: another teacher than the plan was made for, or another file of moments than it saw.
        ConfigError: per-class moments without images or of a teacher without BatchNorm2d; images that do not fit the teacher, or that
            leave out a class.
        MissingResourceError: there is no bundle, or no images there.
        StoreError: damaged weights or images, or a file that cannot be written.
    """
    parsed = StatisticsSection.parse(section, "statistics")
    if bool(inputs.synth_statistics_uri) != bool(parsed.given_sha256):
        raise ConfigError(
            f"{spoken(FIELD)} = {inputs.synth_statistics_uri!r}, but the run was planned {'with' if parsed.given_sha256 else 'without'} a "
            "file of moments: give the step what the plan was given."
        )
    if parsed.given_sha256:
        return _take(parsed, inputs, outputs)
    images_uri = inputs.data_uri or inputs.set_uri
    if parsed.kind == "per_class" and not images_uri:
        raise ConfigError("Moments of kind per_class are measured on labelled images: give some, or ask for kind global.")
    if parsed.kind == "global" and images_uri:
        raise ConfigError(f"Moments of kind global are the teacher's own: leave the images {images_uri!r} out, or ask for kind per_class.")
    teacher = open_teacher(parsed, inputs.teacher_uri)
    source = open_class_images(inputs.data_uri, inputs.set_uri, teacher) if images_uri else None
    with workbench(STEP, parsed, {"teacher": teacher.sha256, **(source.inputs if source else {})}) as bench:
        return bench.do(vars(outputs), lambda: _measure(bench, teacher, source, outputs))


def _take(section: StatisticsSection, inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Leave the moments of a given file, with the step as where they come from: the file's own hash is one of its inputs."""
    teacher = open_teacher(section, inputs.teacher_uri)
    given = open_moments(inputs.synth_statistics_uri, teacher.sha256, teacher.classifier.class_names)
    check_pinned(f"The file of moments {given.uri!r}", given.digest, section.given_sha256)
    counts = given.moments.counts
    counted = {} if counts is None else {"images": float(counts.sum())}
    with workbench(STEP, section, {"teacher": teacher.sha256, "moments": given.digest}) as bench:
        return bench.do(vars(outputs), lambda: _leave(bench, given.moments, outputs, counted))


def _measure(bench: Workbench, teacher: Teacher, source: ClassImages | None, outputs: Outputs) -> dict[str, float]:
    if source is None:
        moments, counted = read_moments(teacher.classifier, teacher.sha256), {}
    else:
        source.show(bench)
        source.warn(teacher.classifier.class_names)
        placed = bench.runtime.place(teacher.classifier)
        moments = class_moments(placed, source.images, source.labels, teacher.sha256)
        counted = {"images": float(len(source.labels))}
    return _leave(bench, moments, outputs, counted)


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
