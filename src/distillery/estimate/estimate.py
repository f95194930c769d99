"""What a run would cost on this machine before it is begun: its plan checked, its parts profiled, the rest multiplied out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from distillery import grammar
from distillery.engine.selection import CANDIDATES
from distillery.errors import ConfigError
from distillery.estimate.profiling import Profile, Timing, profile_run, profile_statistics
from distillery.evaluation.report import MAX_TRAINING_IMAGES
from distillery.host import spoken
from distillery.models.bundle import BundleInfo, VerifiedBundle, fetch_bundle
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.parameters import read_parameters
from distillery.recipes.schema import DistillationRecipe, Recipe, StudentRecipe, StudentsRecipe
from distillery.recipes.workload import workload_of
from distillery.runtime import memory_here, resolve_runtime
from distillery.synthesis.share import ALONE
from distillery.types import ImageSpec
from distillery.workbench.amounts import warn_quotas
from distillery.workbench.moments import GivenMoments
from distillery.workbench.networks import check_networks
from distillery.workbench.planning import (
    Given,
    check_data,
    check_expected,
    check_pipeline,
    check_plan,
    check_room,
    check_teacher,
    open_given,
    recipe_source,
    resolve_recipe,
)
from distillery.workbench.sharding import Sharding, cut_ensemble

_LOGIT, _ASKED, _HEADER, _PAGE = 4, 8, 2048, 3 * 2**20  # bytes; the page of a run is smaller than that


@dataclass(frozen=True)
class Counted:
    """Numbers of images that the recipe alone does not say.

    Attributes:
        tested: labelled images for the evaluation; 0 where none are given.
        begun: images with which the pool begins, held-out ones included.
        begun_holdout: those of them.
        ood: images of another domain.
        given: images that the student is trained on and that were there before, held-out ones included; 0 where they are synthesized.
        given_holdout: those of them that are held out.
        real: whether these are real images, and no synthetic set.
    """

    tested: int = 0
    begun: int = 0
    begun_holdout: int = 0
    ood: int = 0
    given: int = 0
    given_holdout: int = 0
    real: bool = False

    @classmethod
    def of(cls, given: Given, tested: int) -> Self:
        """Those of a run.

        Args:
            given: its images, opened.
            tested: labelled images for the evaluation.
        """
        ood = len(given.ood.images) if given.ood else 0
        if source := given.source:
            return cls(tested, 0, 0, ood, source.training + source.holdout, source.holdout, source.real is not None)
        if given.start is None:
            return cls(tested, ood=ood)
        manifest = given.start.found.manifest
        return cls(tested, manifest.images + manifest.holdout, manifest.holdout, ood)


@dataclass(frozen=True)
class Part:
    """Time in one part of a run.

    Attributes:
        name: what is done.
        times: how often.
        seconds: of all of it, at least and at most.
        how: what was measured.
    """

    name: str
    times: int
    seconds: tuple[float, float]
    how: str


@dataclass(frozen=True)
class Estimate:
    """A run that was not begun.

    Attributes:
        recipe: resolved.
        images: that the student is trained on, held-out ones included; those of another domain are counted apart.
        counted: what was given beside the recipe.
        student_steps: optimizer steps.
        parts: where the time goes.
        memory: bytes of the largest step at its peak.
        store: bytes in the store in the end.
        store_peak: bytes in the store at most, checkpoints included.
        workspace: bytes in the workspace.
        hardware: what it was measured on, in words.
        sharding: how an ensemble is cut; None where one generator is trained, or none.
        capacity: bytes of memory that the device has in all; 0 where nobody looked.
        statistics: the teacher's moments that the run is given; None where it reads its own.
    """

    recipe: Recipe
    images: int
    counted: Counted
    student_steps: int
    parts: tuple[Part, ...]
    memory: int
    store: int
    store_peak: int
    workspace: int
    hardware: str
    sharding: Sharding | None = None
    capacity: int = 0
    statistics: GivenMoments | None = None

    @property
    def seconds(self) -> tuple[float, float]:
        """Of the whole run, at least and at most."""
        return sum(part.seconds[0] for part in self.parts), sum(part.seconds[1] for part in self.parts)


def estimate(pipeline: str, parameters: Mapping[str, Any], device: str = "auto", threads: int = 0, steps: int = 0) -> Estimate:
    """Check a run as its plan would and say what it would cost; nothing is written but a temporary folder.

    Args:
        pipeline: that would run.
        parameters: the run form's values.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of a step; 0 is torch's choice.
        steps: of the pipeline that import what they need by themselves; where steps are forked of one process, that is one.

    Raises:
        DistilleryError: what the plan would refuse.
    """
    values = read_parameters(pipeline, parameters)
    recipe = resolve_recipe(pipeline, values)
    check_pipeline(pipeline, recipe, recipe_source(values))
    data = str(values["eval_data_uri"])
    if not values["teacher_uri"]:
        raise ConfigError(f"{spoken('teacher_uri')} is missing: give the bundle folder that `distillery import-teacher` wrote.")
    with TemporaryDirectory() as folder:
        bundle = VerifiedBundle(fetch_bundle(str(values["teacher_uri"]), Path(folder)), str(values["teacher_sha256"]))
        teacher, info, sha256 = bundle.classifier, bundle.info, bundle.sha256
        check_expected(recipe, info)
        given = open_given(values, recipe, bundle)
        check_room(recipe, info, given.start.images if given.start else 0)
        warn_quotas(recipe, info)
        runtime = resolve_runtime(device, recipe.precision, threads)
        check_plan(recipe, given, bool(data))
        check_networks(recipe, bundle, runtime)
        check_teacher(recipe, info, given)
        sharding = cut_ensemble(recipe, bundle, None, runtime.device)
    tested = check_data(data, recipe, info) if data else 0
    hardware = f"{runtime.device}, {runtime.precision}, {grammar.counted(runtime.threads, 'thread')}"
    counted = Counted.of(given, tested)
    if isinstance(recipe, StatisticsRecipe):
        measured = profile_statistics(recipe, runtime.place(teacher), sha256, runtime)
        return multiply_statistics(recipe, measured, info, counted, steps, hardware)
    measured = profile_run(recipe, runtime.place(teacher), sha256, runtime, share=sharding.largest if sharding else ALONE)
    if isinstance(recipe, StudentRecipe):
        found = multiply_student(recipe, measured, info.spec, counted, steps, hardware)
    else:
        found = multiply_out(recipe, measured, info.spec, info.num_classes, counted, steps, hardware, sharding)
    return replace(found, capacity=memory_here(runtime.device), statistics=given.statistics)


def multiply_student(recipe: StudentRecipe, measured: Profile, spec: ImageSpec, counted: Counted, steps: int, hardware: str) -> Estimate:
    """As `multiply_out`, of a run that synthesizes nothing: its images stay where they are."""
    sized = [stage.sized(counted.given - counted.given_holdout) for stage in recipe.student.stages]
    times = [stage.epochs * stage.steps_per_epoch for stage in sized]
    parts = [
        Part("student", n, (n * timing.seconds,) * 2, _how("a step", timing)) for n, timing in zip(times, measured.stages, strict=True)
    ]
    if counted.given_holdout:
        check = (recipe.student.epochs + 1) * counted.given_holdout * measured.student_image
        parts.append(Part("checks", recipe.student.epochs, (check, check), "the student's forward pass of one image"))
    snapshots = recipe.student.epochs // recipe.student.keep_epochs if recipe.student.keep_epochs else 0
    waiting = (CANDIDATES + 1) * measured.student_bytes * bool(counted.given_holdout)
    students = (1 + snapshots + bool(counted.given_holdout)) * measured.student_bytes
    tested = counted.tested or counted.given_holdout or min(counted.given, MAX_TRAINING_IMAGES)
    kept, image_bytes = 2 * students + _PAGE, math.prod(spec.shape)
    largest = max(timing.bytes for timing in measured.stages)
    images = (counted.given + counted.ood) * image_bytes
    return Estimate(
        recipe=recipe,
        images=counted.given,
        counted=counted,
        student_steps=sum(times),
        parts=(*parts, *_around(recipe, measured, tested, snapshots, steps)),
        memory=measured.startup_bytes + measured.teacher_bytes + measured.trainer_bytes + waiting + largest + images,
        store=kept,
        store_peak=kept + 2 * measured.trainer_bytes + snapshots * measured.student_bytes + waiting,
        workspace=students + _PAGE,
        hardware=hardware,
    )


def multiply_statistics(
    recipe: StatisticsRecipe, measured: Profile, info: BundleInfo, counted: Counted, steps: int, hardware: str
) -> Estimate:
    """As `multiply_out`, of a run that trains no student: images are inverted or given, and looked at once."""
    images = recipe.per_class * info.num_classes if recipe.inverts else counted.given - counted.given_holdout
    pixels, parts = images * math.prod(info.spec.shape), []
    if recipe.inverts:
        turns, most = -(-images // recipe.settings.images_per_turn), recipe.set.max_oversampling
        made, label = turns * measured.turn.seconds, images * measured.teacher_image
        parts.append(Part("synthesis", turns, (made, made * most), _how("a turn", measured.turn)))
        how = "the teacher's forward pass of one image; more where quotas stay open"
        parts.append(Part("labelling", images, (label, label * most), how))
    look = images * measured.teacher_image
    parts.append(Part("measuring", images, (look, look), "the teacher's forward pass of one image"))
    start = steps * measured.startup
    parts.append(Part("starting steps", steps, (start, start), "the same imports in a fresh process"))
    kept = (pixels + images * (_LOGIT * info.num_classes + _ASKED)) * recipe.inverts + 2 * measured.teacher_bytes
    return Estimate(
        recipe=recipe,
        images=images,
        counted=counted,
        student_steps=0,
        parts=tuple(parts),
        memory=measured.startup_bytes + measured.teacher_bytes + measured.synthesizer_bytes + measured.turn.bytes + pixels,
        store=kept,
        store_peak=kept + 2 * measured.synthesizer_bytes,
        workspace=measured.teacher_bytes,
        hardware=hardware,
    )


def multiply_out(
    recipe: DistillationRecipe,
    measured: Profile,
    spec: ImageSpec,
    num_classes: int,
    counted: Counted,
    steps: int,
    hardware: str,
    sharding: Sharding | None = None,
) -> Estimate:
    """The whole run from its measured parts.

    Args:
        recipe: resolved.
        measured: its parts.
        spec: of the images.
        num_classes: K.
        counted: images that are given beside the recipe.
        steps: of the pipeline that import what they need by themselves; where steps are forked of one process, that is one.
        hardware: in words.
        sharding: how an ensemble is cut, whose largest shard was measured; None where there is none.
    """
    learned = sharding.times_largest if sharding else 1.0
    synthesizers = round(measured.synthesizer_bytes * learned)
    work = workload_of(recipe)
    channels, height, width = spec.shape
    kept_images, image_bytes = work.kept + counted.begun, channels * height * width
    pixels = kept_images * image_bytes
    largest = max(timing.bytes for timing in (measured.turn, measured.draw, *measured.stages))
    online = recipe.method.coupling == "online"
    shards = 2 * recipe.synthesis.rounds if online else -(-recipe.set.size // recipe.set.shard_images) + 1
    # shards of a set made before take no room where they can be second names of its files: this is at most
    made = pixels + kept_images * (_LOGIT * num_classes + _ASKED) + shards * _HEADER
    snapshots = recipe.student.epochs // recipe.student.keep_epochs if recipe.student.keep_epochs else 0
    waiting = (CANDIDATES + 1) * measured.student_bytes * bool(recipe.set.holdout)  # a new one is written before the worst goes
    students = (1 + snapshots + bool(recipe.set.holdout)) * measured.student_bytes
    ended = students + synthesizers
    kept = made + students + ended + _PAGE  # a step keeps its outputs, and the student is published beside
    working = max(measured.trainer_bytes + synthesizers * online, synthesizers)  # all shards are there when the set is drawn
    return Estimate(
        recipe=recipe,
        images=work.images + counted.begun,
        counted=counted,
        student_steps=work.student_steps,
        parts=(
            *_training(recipe, measured, counted.begun_holdout, learned),
            *_around(recipe, measured, counted.tested or _unlabelled(recipe, counted), snapshots, steps),
        ),
        memory=measured.startup_bytes + measured.teacher_bytes + working + waiting + largest + pixels + counted.ood * image_bytes,
        store=kept,
        store_peak=kept + 2 * working + snapshots * measured.student_bytes + waiting,  # a checkpoint is whole before the one before it goes
        workspace=ended + _PAGE,
        hardware=hardware,
        sharding=sharding,
    )


def _training(recipe: DistillationRecipe, measured: Profile, begun_holdout: int, learned: float) -> list[Part]:
    """What the recipe spends on images and on the student."""
    online = recipe.method.coupling == "online"
    turns, seconds = recipe.turns, measured.turn.seconds
    oversampling = recipe.set.max_oversampling if recipe.method.inverts else 1.0
    seconds *= learned
    how = _how("a turn" if learned == 1 else "a turn of the largest shard", measured.turn)
    parts = [Part("synthesis", turns, (turns * seconds, turns * seconds * oversampling), how)]
    work = workload_of(recipe)
    held_out = work.kept * recipe.set.holdout
    final, again = held_out, 1  # at the end the last student is judged once more
    if online:
        label = work.images * measured.teacher_image
        parts.append(Part("labelling", work.images, (label, label), "the teacher's forward pass of one image"))
        stages = [(work.student_steps, measured.stages[0])]
        if recipe.synthesis.feed == "fresh":
            drawn = work.student_steps * measured.draw.seconds
            parts.append(Part("drawing for the student", work.student_steps, (drawn, drawn), _how("a batch", measured.draw)))
            held_out = turns * recipe.settings.images_per_turn * recipe.set.holdout
        final, again = held_out, 1 + 2 * CANDIDATES  # the candidates on what is new, and on all of it in the end
        beside, after = recipe.trained_turns, recipe.synthesis.closing_rounds * recipe.synthesis.turns_per_round
        held_out *= (beside / 2 + after) / (beside + after)  # it grows with the pool, and no more in closing rounds
    else:
        training = recipe.set.size - round(held_out)
        sized = [stage.sized(training) for stage in recipe.student.stages]
        stages = [(stage.epochs * stage.steps_per_epoch, timing) for stage, timing in zip(sized, measured.stages, strict=True)]
        parts.append(_drawing(recipe, measured))
    for times, timing in stages:
        parts.append(Part("student", times, (times * timing.seconds,) * 2, _how("a step", timing)))
    if held_out or begun_holdout:
        check = (recipe.student.epochs * (held_out + begun_holdout) + again * (final + begun_holdout)) * measured.student_image
        parts.append(Part("checks", recipe.student.epochs, (check, check), "the student's forward pass of one image"))
    return parts


def _drawing(recipe: DistillationRecipe, measured: Profile) -> Part:
    """What a set costs beside the synthesizer's turns: batches of a trained one, or the labels of images that the turns made."""
    size, more = recipe.set.size, "; more where quotas stay open"
    if recipe.method.inverts:
        label = size * measured.teacher_image
        how = "the teacher's forward pass of one image" + more
        return Part("labelling", size, (label, label * recipe.set.max_oversampling), how)
    draws = -(-size // recipe.set.batch)
    drawn = draws * measured.draw.seconds
    return Part("drawing the set", draws, (drawn, drawn * recipe.set.max_oversampling), _how("a batch", measured.draw) + more)


def _around(recipe: StudentsRecipe, measured: Profile, tested: int, snapshots: int, steps: int) -> list[Part]:
    """The evaluation, and what every step costs before it begins."""
    looks = tested * (measured.teacher_image + measured.student_image * (2 + snapshots))
    timing = recipe.evaluation.timing
    if recipe.evaluation.latency:
        for batch in timing.batches:
            for one in (measured.teacher_image, measured.student_image):
                looks += timing.warmup * batch * one + min(timing.repeats * batch * one, max(timing.seconds, 3 * batch * one))
    start = steps * measured.startup
    return [
        Part("evaluation", tested, (looks, looks), "forward passes of one image"),
        Part("starting steps", steps, (start, start), "the same imports in a fresh process"),
    ]


def _how(what: str, timing: Timing) -> str:
    if timing.measured == timing.full:
        return f"{what} at the recipe's batch of {timing.full}"
    return f"{what} at a batch of {timing.measured}, times {timing.full}/{timing.measured}"


def _unlabelled(recipe: DistillationRecipe, counted: Counted) -> int:
    """Images that the evaluation looks at where no test images are given."""
    images = workload_of(recipe).kept
    return round(images * recipe.set.holdout) + counted.begun_holdout or min(images + counted.begun, MAX_TRAINING_IMAGES)
