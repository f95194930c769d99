"""The step that trains a student: on a synthetic set, on real images where they are, or, outside pipelines, on a live synthesizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.engine.fit import StudentTrainer
from distillery.engine.offline import StudentFit
from distillery.engine.selection import Selection
from distillery.errors import ConfigError
from distillery.models.bundle import VerifiedBundle
from distillery.recipes.sections import StudentSection
from distillery.step_table import SetFolder, StatisticsFile, StudentFolder, SynthesizerFolder
from distillery.students.check import check_classes, check_labels
from distillery.students.plan import StudentConfig
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import Teacher, build_student, open_teacher, save_student
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.sources import Source, only_one, ood_inputs, open_live, open_planned_ood, open_reference_to, show_ood
from distillery.workbench.weights import open_planned_weights, weights_inputs

STEP = "train_student"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads; of `set` and `synthesizer` exactly one is given.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        set: the reference to a set or to real images; pipelines give nothing else.
        synthesizer: makes new images for each step.
        statistics: the teacher's moments, for a synthesizer whose method needs them.
        synth_ood_uri: images of another domain, those that the plan saw, for stages with an `ood_share` and a synthesizer whose
            method learns from some; "" for none.
        student_start_uri: the bundle whose weights the student begins with, the one that the plan saw; "" draws fresh ones.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    set: SetFolder | None = None
    synthesizer: SynthesizerFolder | None = None
    statistics: StatisticsFile | None = None
    synth_ood_uri: str = ""
    student_start_uri: str = ""
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: the student of the last epoch, and `best/` below it where images are held out."""

    student: StudentFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Train a student to the end of its plan, on exactly one of a set, real images and a live synthesizer.

    Args:
        section: a `StudentSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        Loss terms and held-out scores of the last epoch, `epochs`, and what `save_student` returns; only a set has
        held-out images.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, not exactly one source, an empty set, data
            that does not fit the teacher, weights that do not fit the student, or a term that went bad.
        CheckpointMismatchError: another teacher, a set, synthesizer or moments of another one, or other weights than the plan saw.
        MissingResourceError: an input or a shard that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = StudentSection.parse(section, "student")
    only_one({"set": inputs.set, "synthesizer": inputs.synthesizer})
    if inputs.statistics is not None and inputs.synthesizer is None:
        raise ConfigError(f"The statistics {str(inputs.statistics)!r} are only read for a synthesizer: leave them out, or give one.")
    teacher = open_teacher(parsed, inputs.teacher_uri)
    ood = open_planned_ood(parsed, inputs.synth_ood_uri, teacher)
    start = open_planned_weights(parsed, inputs.student_start_uri, teacher.classifier)
    if inputs.set is not None:
        source: Source = open_reference_to(inputs.set, teacher)
    else:
        assert inputs.synthesizer is not None, "one of the two is given"
        source = open_live(inputs.synthesizer, inputs.statistics, teacher, ood)
    if "data" not in source.inputs:
        check_labels(parsed.student.stages)
        check_classes(parsed.student)
    hashes = {"teacher": teacher.sha256, **source.inputs, **ood_inputs(ood), **weights_inputs(start)}
    with workbench(STEP, parsed, hashes) as bench:
        source.show(bench)
        show_ood(bench, inputs.synth_ood_uri, ood)

        def train() -> dict[str, float]:
            fit = prepare(bench, parsed.student, teacher, source, start)
            fit.trainer.ood = ood.pool(teacher.classifier.spec, bench.runtime.device) if ood else None
            return _train(bench, fit, parsed.student, outputs)

        return bench.do(vars(outputs), train)


def _train(bench: Workbench, fit: StudentFit, config: StudentConfig, outputs: Outputs) -> dict[str, float]:
    numbers = fit.run()
    with bench.clock.part("io"):
        best = save_student(bench, outputs.student, fit.trainer.student, fit.selection, config.architecture)
    return {**numbers, **best, "epochs": float(config.epochs)}


def prepare(bench: Workbench, config: StudentConfig, teacher: Teacher, source: Source, start: VerifiedBundle | None = None) -> StudentFit:
    """Build the student and its trainer, and load what it trains on."""
    runtime, seed = bench.runtime, bench.section.seed
    names = config.class_names(teacher.classifier.class_names)
    student = build_student(config.architecture, teacher.classifier, runtime, seed, names, start)
    with bench.clock.part("io"):
        supply = source.open(bench, teacher, student)
    stages = tuple(stage.sized(supply.images) for stage in config.stages) if supply.images else config.stages
    trainer = StudentTrainer(stages, runtime.place(teacher.classifier), student, runtime, seed)
    selection = Selection(bench.checkpoints.store, supply.judge, config.keep_epochs)
    session = bench.session()
    return StudentFit(trainer, supply.feed, selection, session, supply.synthesizer)
