"""The step in which a synthesizer and a student train each other; it leaves a synthesizer, a set and a student."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.data.ood import OodImages
from distillery.data.start import StartSet
from distillery.engine.fit import StudentTrainer
from distillery.engine.online import OnlineConfig, OnlineDistillation
from distillery.engine.recorded import Ground, RecordedPool
from distillery.engine.sampled import Room, SampledPool
from distillery.engine.selection import Selection
from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.models.bundle import VerifiedBundle
from distillery.recipes.sections import DistillSection
from distillery.step_table import SetFolder, StatisticsFile, StudentFolder, SynthesizerFolder
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.workbench.accelerators import check_promise
from distillery.workbench.assembly import PlannedMethod, Teacher, build_student, judging, open_teacher, save_student
from distillery.workbench.bench import Workbench, reporting, workbench
from distillery.workbench.review import Reviewer
from distillery.workbench.sets import open_set_store, publish, set_header, write_set
from distillery.workbench.sources import ood_inputs, open_planned_ood, show_ood
from distillery.workbench.weights import open_planned_weights, weights_inputs

STEP = "distill_online"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        statistics: the teacher's moments; None for a method that needs none.
        synth_start_uri: the set made before with which the pool begins, the one that the plan saw; "" for none.
        synth_ood_uri: images of another domain, those that the plan saw, for stages with an `ood_share` and methods that learn from them;
            "" for none.
        student_start_uri: the bundle whose weights the student begins with, the one that the plan saw; "" draws fresh ones.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    statistics: StatisticsFile | None = None
    synth_start_uri: str = ""
    synth_ood_uri: str = ""
    student_start_uri: str = ""
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes.

    Attributes:
        synthesizer: as it is after the last round.
        set: the reference to the pool, published as a set; that itself goes to the store.
        student: of the last epoch, and `best/` below it where images are held out.
    """

    synthesizer: SynthesizerFolder
    set: SetFolder
    student: StudentFolder


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Play all rounds, then publish the pool as a set.

    Args:
        section: a `DistillSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        The synthesizer's loss terms of its last round, the student's and its held-out scores of the very last one, `rounds`,
        `closing_rounds`, `epochs`, what `save_student` returns, and `health/` numbers of the pool.

    Raises:
        ConfigError: a promised accelerator that is not there, settings that are not allowed, a teacher that the method cannot use, a term
            that went bad, or a collapsed pool under `strict`.
        CheckpointMismatchError: another teacher, another teacher's moments, or other weights to begin with than the plan saw.
        MissingResourceError: an input that is not there.
        StoreError: damaged bytes, or a store that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = DistillSection.parse(section, "distill")
    plan = PlannedMethod.parse(parsed.method, parsed.method_config, inputs.statistics)
    teacher = open_teacher(parsed, inputs.teacher_uri)
    ood = open_planned_ood(parsed, inputs.synth_ood_uri, teacher)
    weights = open_planned_weights(parsed, inputs.student_start_uri, teacher.classifier)
    cast = _Cast(plan, teacher, _open_start(parsed, inputs.synth_start_uri, teacher), ood, weights)
    with workbench(STEP, parsed, cast.hashes) as bench:
        if cast.start:
            bench.tracker.dataset("set to begin with", inputs.synth_start_uri, cast.start.digest, "training")
        show_ood(bench, inputs.synth_ood_uri, ood)
        return bench.do(vars(outputs), lambda: _play(bench, parsed, cast, outputs), lambda: publish(bench, outputs.set, "training"))


@dataclass(frozen=True)
class _Cast:
    """Verified inputs."""

    plan: PlannedMethod
    teacher: Teacher
    start: StartSet | None
    ood: OodImages | None
    weights: VerifiedBundle | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each, by name."""
        started = {"start": self.start.digest} if self.start else {}
        return {**self.plan.inputs(self.teacher), **started, **ood_inputs(self.ood), **weights_inputs(self.weights)}


def _open_start(section: DistillSection, uri: str, teacher: Teacher) -> StartSet | None:
    if bool(uri) != bool(section.start_sha256):
        planned = "with" if section.start_sha256 else "without"
        raise ConfigError(
            f"{spoken('synth_start_uri')} = {uri!r}, but the run was planned {planned} a set to begin with: give the step "
            "what the plan was given."
        )
    return StartSet.open(uri, teacher.sha256, teacher.classifier.spec, section.start_sha256) if uri else None


def _play(bench: Workbench, section: DistillSection, cast: _Cast, outputs: Outputs) -> dict[str, float]:
    plan, teacher = cast.plan, cast.teacher
    loop = prepare(bench, section, cast)
    numbers = loop.run()
    reviewer = Reviewer(bench, teacher, section.health, section.strict)
    loop.pool.review(reviewer)
    state = SynthesizerState(plan.name, plan.config.to_json(), teacher.sha256, loop.synthesizer.state_dict())
    with bench.clock.part("io"):
        save_synthesizer(outputs.synthesizer, state, bench.provenance)
        write_set(bench, loop.pool.manifest(), outputs.set)
        health = reviewer.keep(outputs.set)
        epochs = loop.trainer.epochs
        best = save_student(bench, outputs.student, loop.trainer.student, loop.selection, section.student.architecture)
    lengths = {"rounds": float(section.rounds), "closing_rounds": float(section.closing_rounds), "epochs": float(epochs)}
    return {**numbers, **health, **best, **lengths}


def prepare(bench: Workbench, section: DistillSection, cast: _Cast) -> OnlineDistillation:
    """Build everything that plays."""
    runtime, seed, teacher, start = bench.runtime, section.seed, cast.teacher, cast.start
    synthesizer = cast.plan.build(teacher, runtime, seed, section.rounds * section.turns_per_round, cast.ood)
    student = build_student(section.student.architecture, teacher.classifier, runtime, seed, start=cast.weights)
    trainer = StudentTrainer(section.student.stages, teacher.classifier, student, runtime, seed)
    trainer.ood = cast.ood.pool(teacher.classifier.spec, runtime.device) if cast.ood else None
    began = {"start_sha256": start.digest, "start_images": start.images} if start else {}
    header = set_header(bench, teacher).model_copy(update=began)
    ground = Ground(open_set_store(bench), header, teacher.classifier, section.holdout, seed)
    store, record = bench.checkpoints.store, section.record
    pool = RecordedPool(ground) if record == "all" else SampledPool(ground, Room(store, record))
    pool.clock = bench.clock
    return OnlineDistillation(
        OnlineConfig(
            rounds=section.rounds,
            turns_per_round=section.turns_per_round,
            student_steps_per_turn=section.student_steps_per_turn,
            closing_rounds=section.closing_rounds,
            feed=section.feed,
            record=section.record,
        ),
        synthesizer,
        trainer,
        pool,
        Selection(store, judging(lambda: (pool.held_out.images, pool.held_out_answers())), section.student.keep_epochs),
        bench.session(section.checkpoint_every),
        start,
    )
