"""The step that measures a teacher's BatchNorm moments of each class, on labelled images or on a synthetic set, and ends a run for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.ledger.runs import note_results
from distillery.recipes.sections import ClassStatisticsSection
from distillery.statistics.extract import class_moments
from distillery.statistics.moments import save_moments
from distillery.step_table import ClassStatisticsFile, SetFolder
from distillery.tracking.open import close_parent
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import Teacher, open_teacher
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.class_images import ClassImages, open_class_images, warn_of_few
from distillery.workbench.lineage import run_identity
from distillery.workbench.moments import keep_class_statistics

STEP = "extract_class_statistics"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        set: the reference to the images: a synthetic set, or labelled real ones.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    set: SetFolder
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the moments."""

    class_statistics: ClassStatisticsFile


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Measure the moments of each class, and, at the end of a run, publish them in its store.

    Args:
        section: a `ClassStatisticsSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        layers: visits of layers with running statistics, see `find_layers`; channels: of all of them together; images: that were measured
        on; fewest: of these, of the class that has fewest.

    Raises:
        CheckpointMismatchError: another teacher than the plan was made for, or other images than were referred to.
        ConfigError: a promised accelerator that is not there, a teacher without BatchNorm2d, or images that do not fit the teacher, have no
            labels or leave out a class.
        MissingResourceError: there is no bundle, or no images there.
        StoreError: damaged weights or images, or a file that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = ClassStatisticsSection.parse(section, "class_statistics")
    teacher = open_teacher(parsed, inputs.teacher_uri)
    found = open_class_images(inputs.set, teacher)
    with workbench(STEP, parsed, {"teacher": teacher.sha256, **found.source.inputs}) as bench:
        found.source.show(bench, "statistics")
        numbers = bench.do(vars(outputs), lambda: _measure(bench, teacher, found, outputs))
        if run := run_identity():
            note_results(bench.store, run, {"statistics": keep_class_statistics(bench.store, outputs.class_statistics)})
    close_parent("FINISHED")
    return numbers


def _measure(bench: Workbench, teacher: Teacher, found: ClassImages, outputs: Outputs) -> dict[str, float]:
    moments = class_moments(bench.runtime.place(teacher.classifier), found.images, found.labels, teacher.sha256)
    assert moments.counts is not None, "they are of each class"
    counts = moments.counts.tolist()
    warn_of_few(counts, teacher.classifier.class_names)
    save_moments(outputs.class_statistics, moments, bench.provenance)
    layers, channels = len(moments.mean), sum(value.shape[-1] for value in moments.mean.values())
    bench.progress.write("statistics of each class", len(found.labels), len(found.labels), {"channels": channels, "fewest": min(counts)})
    return {"layers": float(layers), "channels": float(channels), "images": float(len(found.labels)), "fewest": float(min(counts))}
