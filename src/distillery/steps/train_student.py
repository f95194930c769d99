"""The step that trains a student: on a synthetic set in a pipeline, else also on a live synthesizer or on real data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.engine.fit import StudentTrainer
from distillery.engine.offline import StudentFit
from distillery.engine.selection import Selection
from distillery.engine.session import Session
from distillery.errors import ConfigError
from distillery.recipes.sections import StudentSection
from distillery.students.plan import StudentConfig
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import Teacher, build_student, open_teacher, save_student
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.sources import Source, only_one, open_live, open_real, open_set

STEP = "train_student"


@reporting(STEP)
def run(
    section: Mapping[str, Any],
    teacher_uri: str,
    set_path: Path | None,
    student_path: Path,
    accelerators: str = "0",
    *,
    synthesizer_path: Path | None = None,
    statistics_path: Path | None = None,
    data_uri: str = "",
) -> dict[str, float]:
    """Train a student to the end of its plan, on exactly one of a set, a live synthesizer and real data.

    Args:
        section: a `StudentSection` as JSON.
        teacher_uri: the teacher's bundle, a folder or a URI.
        set_path: folder with the reference to a set; pipelines give nothing else.
        student_path: folder of the student's bundle to write: the last epoch's, and `best/` below it where images are held out.
        accelerators: how many the cluster was asked for.
        synthesizer_path: folder of a trained synthesizer, which makes new images for each step.
        statistics_path: the teacher's moments, for a synthesizer whose method needs them.
        data_uri: labelled images to train on, with their labels.

    Returns:
        Loss terms and held-out scores of the last epoch, `epochs`, and what `save_student` returns; only a set has
        held-out images.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, not exactly one source, an empty set, data
            that does not fit the teacher, or a term that went bad.
        CheckpointMismatchError: another teacher, or a set, synthesizer or moments of another one.
        MissingResourceError: an input or a shard that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(accelerators)
    parsed = StudentSection.parse(section, "student")
    only_one({"set_path": set_path, "synthesizer_path": synthesizer_path, "data_uri": data_uri})
    if statistics_path is not None and synthesizer_path is None:
        raise ConfigError(f"The statistics {str(statistics_path)!r} are only read for a synthesizer: leave them out, or give one.")
    teacher = open_teacher(parsed, teacher_uri)
    if set_path is not None:
        source: Source = open_set(set_path, teacher)
    elif synthesizer_path is not None:
        source = open_live(synthesizer_path, statistics_path, teacher)
    else:
        source = open_real(data_uri, teacher)
    outputs = {"student": student_path}
    with workbench(STEP, parsed, {"teacher": teacher.sha256, **source.inputs}) as bench:
        source.show(bench)
        return bench.do(outputs, lambda: _train(bench, parsed.student, teacher, source, student_path))


def _train(bench: Workbench, config: StudentConfig, teacher: Teacher, source: Source, path: Path) -> dict[str, float]:
    fit = prepare(bench, config, teacher, source)
    numbers = fit.run()
    with bench.clock.part("io"):
        best = save_student(bench, path, fit.trainer.student, fit.selection, config.architecture)
    return {**numbers, **best, "epochs": float(config.epochs)}


def prepare(bench: Workbench, config: StudentConfig, teacher: Teacher, source: Source) -> StudentFit:
    """Build the student and its trainer, and load what it trains on."""
    runtime, seed = bench.runtime, bench.section.seed
    student = build_student(config.architecture, teacher.classifier, runtime, seed)
    with bench.clock.part("io"):
        supply = source.open(bench, teacher, student)
    stages = tuple(stage.sized(supply.images) for stage in config.stages) if supply.images else config.stages
    trainer = StudentTrainer(stages, runtime.place(teacher.classifier), student, runtime, seed)
    selection = Selection(bench.checkpoints.store, supply.judge, config.keep_epochs)
    session = Session(bench.checkpoints, bench.progress, bench.tracker.metrics, clock=bench.clock)
    return StudentFit(trainer, supply.feed, selection, session, supply.synthesizer)
