"""The step that trains a student on a synthetic set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.data.pool import ImagePool
from distillery.data.store import SyntheticSet, open_reference
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.offline import StudentFit
from distillery.engine.selection import Selection
from distillery.engine.session import Session, Validate
from distillery.errors import ConfigError
from distillery.recipes.schema import StudentSection
from distillery.steps.assembly import Teacher, build_student, open_teacher, save_student, scoring
from distillery.steps.workbench import Workbench, reporting, workbench
from distillery.students.plan import StudentConfig

STEP = "train_student"


@reporting(STEP)
def run(section: Mapping[str, Any], teacher_uri: str, set_path: Path, student_path: Path) -> dict[str, float]:
    """Train a student to the end of its plan.

    Args:
        section: a `StudentSection` as JSON.
        teacher_uri: the teacher's bundle, a folder or a URI.
        set_path: folder with the reference to a set.
        student_path: folder of the student's bundle to write: the last epoch's, and `best/` below it where images are held out.

    Returns:
        Loss terms and held-out scores of the last epoch, `epochs`, `best_epoch` and `best_agreement`.

    Raises:
        ConfigError: settings that are not allowed, an empty set, or a term that went bad.
        CheckpointMismatchError: another teacher, or a set made with another one.
        MissingResourceError: an input or a shard that is not there.
        StoreError: a damaged shard, or a store that cannot be written.
    """
    parsed = StudentSection.parse(section, "student")
    teacher = open_teacher(parsed, teacher_uri)
    synthetic = open_reference(set_path, teacher.sha256)
    outputs = {"student": student_path}
    with workbench(STEP, parsed, {"teacher": teacher.sha256, "set": synthetic.digest}) as bench:
        if (done := bench.finished(outputs)) is not None:
            return done
        bench.tracker.dataset("synthetic set", synthetic.store.uri, synthetic.digest, "training")
        fit = prepare(bench, parsed.student, teacher, synthetic)
        numbers = fit.run()
        with bench.clock.part("io"):
            best = save_student(bench, student_path, fit.trainer.student, fit.selection, parsed.student.architecture)
        done = bench.finish(outputs, {**numbers, **best, "epochs": float(parsed.student.epochs)})
        fit.selection.drop_snapshots()
        return done


def prepare(bench: Workbench, config: StudentConfig, teacher: Teacher, synthetic: SyntheticSet) -> StudentFit:
    """Load the set, every shard verified, and build the student and its trainer."""
    runtime, seed = bench.runtime, bench.section.seed
    with bench.clock.part("io"):
        images = synthetic.load("train").images
    if not len(images):
        raise ConfigError(f"The set {synthetic.store.uri!r} has no images to train on: materialize a larger one.")
    pool = ImagePool(teacher.classifier.spec, runtime.device, capacity=len(images))
    pool.append(images)
    student = build_student(config.architecture, teacher.classifier, runtime, seed)
    stages = tuple(stage.sized(len(images)) for stage in config.stages)
    trainer = StudentTrainer(stages, runtime.place(teacher.classifier), student, runtime, seed)
    selection = Selection(bench.checkpoints.store, config.keep_epochs)
    session = Session(bench.checkpoints, bench.progress, bench.tracker.metrics, clock=bench.clock)
    return StudentFit(trainer, PoolFeed(pool), selection, session, _validation(synthetic))


def _validation(synthetic: SyntheticSet) -> Validate | None:
    held_out = synthetic.load("holdout")
    if not len(held_out.images):
        return None
    return scoring(lambda: (held_out.images, held_out.teacher_logits))
