"""A few real steps of a planned run, timed and weighed on this machine; nothing is kept."""

import io
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from distillery.data.pool import ImagePool
from distillery.engine.feeds import LabelledFeed, PoolFeed, own_images
from distillery.engine.fit import StudentTrainer
from distillery.engine.labelling import teacher_logits
from distillery.evaluation.predict import predict
from distillery.methods.catalog import Method
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.schema import DistillationRecipe, StudentsRecipe
from distillery.runtime import Runtime
from distillery.statistics.extract import global_moments
from distillery.step_table import STEPS
from distillery.students.plan import StageConfig, needs_of
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.protocol import Ingredients, Synthesizer
from distillery.synthesis.share import ALONE, Share
from distillery.types import Classifier
from distillery.workbench.assembly import build_student

SYNTHESIS_SECONDS, STUDENT_SECONDS, FORWARD_SECONDS = 4.0, 2.5, 0.5
_FIRST_SIZE, _GROWTH, _REPEATS, _OOD = 8, 4, 5, 64
_IMPORTS = f"""
import contextlib, resource
with contextlib.suppress(ImportError):
    import kfp.dsl, mlflow
import {", ".join(f"distillery.steps.{name}" for name, row in STEPS.items() if row.accelerated)}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@dataclass(frozen=True)
class Timing:
    """What one call costs at its full batch.

    Attributes:
        seconds: of one call; median of the timed ones, times full / measured where the batch was made smaller to be quick.
        measured: batch that was timed.
        full: batch of the recipe.
        bytes: memory that it took at its peak, scaled likewise; 0 where the machine does not tell.
    """

    seconds: float
    measured: int
    full: int
    bytes: int = 0


_NOTHING = Timing(0.0, 0, 0)
"""Of work that a run does not do."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the parts of a run cost on this machine; nothing, where it does not do them.

    Attributes:
        turn: one turn of the synthesizer.
        stages: one step of each stage of the student.
        draw: one batch of the set, the teacher's labels included.
        teacher_image: seconds of the teacher's forward pass of one image.
        student_image: of the student's.
        startup: seconds until a step of the pipeline has begun.
        startup_bytes: memory of a step that has just begun.
        teacher_bytes: weights of the teacher.
        student_bytes: weights of the student.
        synthesizer_bytes: state of the synthesizer.
        trainer_bytes: state of the student's training.
    """

    turn: Timing = _NOTHING
    stages: tuple[Timing, ...] = ()
    draw: Timing = _NOTHING
    teacher_image: float
    student_image: float = 0.0
    startup: float
    startup_bytes: int
    teacher_bytes: int
    student_bytes: int = 0
    synthesizer_bytes: int = 0
    trainer_bytes: int = 0


def profile_statistics(recipe: StatisticsRecipe, teacher: Classifier, teacher_sha256: str, runtime: Runtime, seed: int = 0) -> Profile:
    """As `profile_run`, of a run that trains no student: a turn of the method, where images are inverted, and looks of the teacher.

    Args:
        recipe: resolved.
        teacher: frozen, placed on the runtime's device.
        teacher_sha256: of its bundle.
        runtime: device, precision and threads of the run.
        seed: of the random images.
    """
    maker = None
    if recipe.inverts:
        turns = -(-recipe.per_class * teacher.num_classes // recipe.settings.images_per_turn)
        maker = _Maker(recipe.method, recipe.settings, turns, teacher, teacher_sha256, runtime, seed)
    images = _noise(teacher, seed)
    startup, startup_bytes = _start()
    return Profile(
        turn=maker.time_turn() if maker else _NOTHING,
        teacher_image=_time_look(lambda part: teacher_logits(teacher, part), images, runtime),
        startup=startup,
        startup_bytes=startup_bytes,
        teacher_bytes=_size(teacher.state_dict()),
        synthesizer_bytes=_size(maker.whole().state_dict()) if maker else 0,
    )


def profile_run(
    recipe: StudentsRecipe, teacher: Classifier, teacher_sha256: str, runtime: Runtime, seed: int = 0, share: Share = ALONE
) -> Profile:
    """Time the parts of a run: some ten seconds, more where a single step on eight images takes longer.

    Args:
        recipe: resolved.
        teacher: frozen, placed on the runtime's device.
        teacher_sha256: of its bundle.
        runtime: device, precision and threads of the run.
        seed: of the random images.
        share: of an ensemble's generators, those that are timed.
    """
    synthesis = _Bench(recipe, teacher, teacher_sha256, runtime, seed, share) if isinstance(recipe, DistillationRecipe) else None
    bench = synthesis or _Trainee(recipe, teacher, runtime, seed)
    images = _noise(teacher, seed)
    looks: tuple[Callable[[torch.Tensor], object], ...] = (
        lambda part: teacher_logits(teacher, part),
        lambda part: predict(bench.student, part),
    )
    forward = [_time_look(look, images, runtime) for look in looks]
    startup, startup_bytes = _start()
    return Profile(
        turn=synthesis.maker.time_turn(synthesis.opponent) if synthesis else _NOTHING,
        stages=tuple(bench.time_stage(stage, images) for stage in recipe.student.stages),
        draw=synthesis.time_draw(forward[0]) if synthesis else _NOTHING,
        teacher_image=forward[0],
        student_image=forward[1],
        startup=startup,
        startup_bytes=startup_bytes,
        teacher_bytes=_size(teacher.state_dict()),
        student_bytes=_size(bench.student.state_dict()),
        synthesizer_bytes=_size(synthesis.maker.whole().state_dict()) if synthesis else 0,
        trainer_bytes=_size(bench.trainer(recipe.student.stages[0]).state_dict()),
    )


class _Trainee:
    """Builds a student and its trainer, as small as they have to be."""

    def __init__(self, recipe: StudentsRecipe, teacher: Classifier, runtime: Runtime, seed: int) -> None:
        self.planned, self.teacher, self.runtime, self.seed = recipe.student, teacher, runtime, seed
        self.ood = _others(teacher, runtime, seed)
        self.names = recipe.student.class_names(teacher.class_names)
        self.student = build_student(recipe.student.architecture, teacher, runtime, seed, self.names)

    def trainer(self, stage: StageConfig) -> StudentTrainer:
        student = build_student(self.planned.architecture, self.teacher, self.runtime, self.seed, self.names)
        trainer = StudentTrainer((stage.sized(1),), self.teacher, student, self.runtime, self.seed)
        trainer.ood = self.ood
        return trainer

    def time_stage(self, stage: StageConfig, images: torch.Tensor) -> Timing:
        """One optimizer step of the student."""
        labelled = any("labels" in needs_of(objective) for objective in stage.objectives)

        def steps(n: int) -> Callable[[], object]:
            pool = ImagePool(self.teacher.spec, self.runtime.device)
            # whatever the labels of real images are, learning them costs the same
            pool.append(images.repeat(-(-n // len(images)), 1, 1, 1)[:n], torch.zeros(n, dtype=torch.int64) if labelled else None)
            trainer = self.trainer(stage.model_copy(update={"batch": n}))
            return lambda: trainer.train(1, LabelledFeed(pool) if labelled else PoolFeed(pool))

        return _timed(steps, stage.batch, STUDENT_SECONDS / len(self.planned.stages), self.runtime)


class _Maker:
    """Builds a method's synthesizer, as small as it has to be."""

    def __init__(
        self,
        method: Method,
        settings: MethodConfig,
        turns: int,
        teacher: Classifier,
        teacher_sha256: str,
        runtime: Runtime,
        seed: int,
        share: Share = ALONE,
    ) -> None:
        self.method, self.settings, self.runtime = method, settings, runtime
        moments = None
        required = method.required(settings)
        if {"moments", "class_moments"} & set(required):
            moments = global_moments(teacher, teacher_sha256).to(runtime.device)
            if "class_moments" in required:  # whatever the moments of a class are, matching them costs the same
                moments = moments.select(torch.arange(teacher.num_classes))
        others = _others(teacher, runtime, seed) if "ood" in required else None
        # gradient norms cost extra in the first turns only
        self.ingredients = Ingredients(teacher, runtime, seed, moments, turns=turns, ood=others, diagnose=False, share=share)

    def synthesizer(self, images: int, steps: int) -> Synthesizer:
        """The method's with a smaller turn, see `MethodConfig.cut`."""
        synthesizer: Synthesizer = self.method.load()[0](self.settings.cut(images, steps), self.ingredients)
        return synthesizer

    def whole(self) -> Synthesizer:
        """The method's, past its warm-up."""
        return self.synthesizer(self.settings.images_per_turn, self.settings.steps_per_turn)

    def time_turn(self, opponent: Classifier | None = None) -> Timing:
        """One turn; where it has many steps, from turns of one and of three of them."""

        def turns(n: int, steps: int = 1) -> Callable[[], object]:
            synthesizer = self.synthesizer(n, steps)
            return lambda: synthesizer.advance(opponent)

        full, steps = self.settings.images_per_turn or _FIRST_SIZE, self.settings.steps_per_turn
        one = _timed(turns, full, SYNTHESIS_SECONDS / 2, self.runtime)
        if steps == 1:
            return one
        scale = one.full / one.measured
        three = _timed(lambda n: turns(n, 3), one.measured, SYNTHESIS_SECONDS / 2, self.runtime, first=one.measured)
        step = max(three.seconds * scale - one.seconds, 0.0) / 2
        fixed = max(one.seconds - step, 0.0)
        seconds = fixed + steps * step
        return Timing(seconds, one.measured, full, max(one.bytes, int(three.bytes * scale)))


class _Bench(_Trainee):
    """Builds what makes images as well."""

    def __init__(
        self, recipe: DistillationRecipe, teacher: Classifier, teacher_sha256: str, runtime: Runtime, seed: int, share: Share = ALONE
    ) -> None:
        super().__init__(recipe, teacher, runtime, seed)
        self.recipe = recipe
        self.opponent = self.student if recipe.method.coupling == "online" else None
        self.maker = _Maker(recipe.method, recipe.settings, recipe.turns, teacher, teacher_sha256, runtime, seed, share)

    def time_draw(self, teacher_image: float) -> Timing:
        """One batch of the set, nothing where its turns make it; online, one batch of a student that is fed new images each step."""
        if self.recipe.method.inverts:
            return _NOTHING
        synthesizer = self.maker.whole()
        if self.recipe.method.coupling == "online":
            if self.recipe.synthesis.feed != "fresh":
                return _NOTHING
            stage = self.recipe.student.stages[0]
            batch = own_images(stage.batch, stage.ood_share)
            return _timed(lambda n: lambda: synthesizer.synthesize(n, student=self.student), batch, FORWARD_SECONDS, self.runtime)
        drawn = _timed(lambda n: lambda: synthesizer.synthesize(n), self.recipe.set.batch, FORWARD_SECONDS, self.runtime)
        return Timing(drawn.seconds + self.recipe.set.batch * teacher_image, drawn.measured, drawn.full, drawn.bytes)


def _timed(make: Callable[[int], Callable[[], object]], full: int, seconds: float, runtime: Runtime, first: int = _FIRST_SIZE) -> Timing:
    """Time a call at the largest batch up to `full` that fits into about `seconds`; each size is called once before it counts."""

    def once(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        return time.perf_counter() - began

    size, deadline = min(first, full), time.perf_counter() + seconds
    while True:
        weigh = _Scale(runtime)
        call = make(size)
        once(call)
        took = [once(call)]
        larger = min(size * _GROWTH, full)
        if size == full or time.perf_counter() + 2 * took[0] * larger / size > deadline:
            break
        size = larger
    while len(took) < _REPEATS and time.perf_counter() + took[0] < deadline:
        took.append(once(call))
    return Timing(median(took) * full / size, size, full, int(weigh.peak() * full / size))


def _others(teacher: Classifier, runtime: Runtime, seed: int) -> ImagePool:
    """Images of another domain: whatever such images show, they cost the same."""
    pool = ImagePool(teacher.spec, runtime.device)
    pool.append(_noise(teacher, seed)[:_OOD])
    return pool


def _noise(teacher: Classifier, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(256, (_OOD, *teacher.spec.shape), dtype=torch.uint8, generator=draws)


def _time_look(look: Callable[[torch.Tensor], object], images: torch.Tensor, runtime: Runtime) -> float:
    """Seconds of a forward pass of one image."""
    return _timed(partial(_look, look, images), len(images), FORWARD_SECONDS, runtime).seconds / len(images)


def _look(look: Callable[[torch.Tensor], object], images: torch.Tensor, n: int) -> Callable[[], object]:
    return lambda: look(images[:n])


class _Scale:
    """Memory taken since it was made: on CUDA what torch allocated, else the growth of this process's peak."""

    def __init__(self, runtime: Runtime) -> None:
        self.cuda = runtime.device if runtime.device.type == "cuda" else None
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.cuda)
            self.before = torch.cuda.memory_allocated(self.cuda)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
        self.before = _resident()

    def peak(self) -> int:
        """Bytes at the highest."""
        return max((torch.cuda.max_memory_allocated(self.cuda) if self.cuda else _resident()) - self.before, 0)


def _resident() -> int:
    """The highest resident size of this process, in bytes."""
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _start() -> tuple[float, int]:
    """Seconds and bytes that a step needs before it does anything: the same imports in a fresh process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return time.perf_counter() - began, int(words[-1]) if words else 0


def _size(state: Any) -> int:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()
