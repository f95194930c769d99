"""What a plan resolves and checks before anything is trained: recipe, pipeline, teacher, room, data.

Each check raises one sentence; the plan step, the estimate and the commands that run single steps ask the same ones.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillery.data.ood import OodImages, load_ood
from distillery.data.start import StartSet
from distillery.engine.feeds import ood_images
from distillery.engine.labelling import labeller_of
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.host import spoken
from distillery.methods.catalog import Method, Supply, find_method
from distillery.models.allowance import check_allowed
from distillery.models.bundle import BundleInfo, VerifiedBundle, fetch_bundle
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.loader import is_own_file, recipe_name
from distillery.recipes.parameters import Value, parameters_of
from distillery.recipes.schema import DistillationRecipe, Recipe, StudentRecipe, StudentsRecipe, read_recipe, training
from distillery.recipes.student_plans import changed_document
from distillery.recipes.workload import workload_of
from distillery.storage.workspace import workspace
from distillery.students.check import check_classes, check_judged, check_labels, check_ood
from distillery.students.plan import StageConfig, needs_of
from distillery.synthesis.bundle import SynthesizerFacts
from distillery.synthesis.config import MethodConfig
from distillery.types import ImageSpec
from distillery.workbench.class_images import check_measurable, open_measured
from distillery.workbench.given import GivenSource, open_source, wants_labels
from distillery.workbench.moments import GivenMoments, open_moments
from distillery.workbench.weights import FIELD, open_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What a run is given beside its teacher and its recipe; None where it is given none.

    Attributes:
        start: the set that the pool begins with.
        ood: images of another domain.
        statistics: the teacher's moments, measured before.
        source: what the student is trained on, where nothing is synthesized.
        weights: that the student begins with.
    """

    start: StartSet | None = None
    ood: OodImages | None = None
    statistics: GivenMoments | None = None
    source: GivenSource | None = None
    weights: VerifiedBundle | None = None

    @property
    def labelled(self) -> bool:
        """Whether the student sees true labels."""
        return self.source is not None and self.source.labelled


def recipe_source(values: Mapping[str, Value]) -> str:
    """The preset or file that a run asks for; a file wins.

    Raises:
        ConfigError: a run_recipe_uri that is no YAML file, a file in run_recipe, or neither of the two.
    """
    name, uri = str(values["run_recipe"]), str(values["run_recipe_uri"])
    if uri and not is_own_file(uri):
        raise ConfigError(f"{spoken('run_recipe_uri')} = {uri!r} is not allowed: give a path or URI ending in .yaml, or name a preset.")
    if not uri and (not name or is_own_file(name)):
        raise ConfigError(
            f"{spoken('run_recipe')} = {name!r} is not allowed: name a preset, or give a file of your own as {spoken('run_recipe_uri')}."
        )
    return uri or name


def resolve_recipe(pipeline: str, values: Mapping[str, Value]) -> Recipe:
    """The recipe with the run form's plan of the student, then its fields, and then `run_overrides` put in.

    Raises:
        ConfigError: an unknown recipe or key, a wrong type.
    """
    rows = parameters_of(pipeline).values()
    fields = {row.path: values[row.name] for row in rows if row.path and values[row.name]}
    overrides = values["run_overrides"]
    assert isinstance(overrides, dict)
    return read_recipe(changed_document(recipe_source(values), str(values["student_method"]), fields, overrides))


def check_pipeline(pipeline: str, recipe: Recipe, source: str) -> None:
    """Refuse a recipe that belongs to another pipeline.

    Raises:
        ConfigError: naming the pipeline that runs it.
    """
    if recipe.pipeline == pipeline:
        return
    what = "trains a student on images that are there"
    if isinstance(recipe, StatisticsRecipe):
        what = f"measures statistics of each class on {'images that are inverted' if recipe.inverts else 'images that are there'}"
    if isinstance(recipe, DistillationRecipe):
        what = f"uses {recipe.method.title}, an {recipe.method.coupling} method"
    raise ConfigError(f"Recipe {recipe_name(source)!r} {what}, which {pipeline} does not run: run it with {recipe.pipeline}.")


def verify_teacher(uri: str, pinned: str) -> VerifiedBundle:
    """Open a teacher's bundle and verify its bytes; a network of somebody else's is built at once, since it will be tried.

    Raises:
        ConfigError: no teacher was given, or one of a module that nobody allowed.
        CheckpointMismatchError: its digest is not the pinned one.
        MissingResourceError: there is no bundle.
        StoreError: the weights fail their hash.
    """
    if not uri:
        raise ConfigError(f"{spoken('teacher_uri')} is missing: give the bundle folder that `distillery import-teacher` wrote.")
    teacher = VerifiedBundle(fetch_bundle(uri, workspace() / "bundles"))
    name = teacher.info.architecture.name
    check_allowed(name)
    if pinned and teacher.sha256 != pinned:
        raise CheckpointMismatchError(
            f"The teacher {uri!r} has sha256 {teacher.sha256}, but teacher_sha256 asks for {pinned}: "
            f"give that teacher as {spoken('teacher_uri')}, or begin a new run with this one."
        )
    if ":" in name:
        _ = teacher.classifier
    else:
        teacher.verify()
    return teacher


def check_expected(recipe: Recipe, info: BundleInfo) -> None:
    """Refuse a teacher that the recipe was not written for.

    Raises:
        ConfigError: another task, image shape or class count.
    """
    labeller_of(info.task)
    expects = recipe.expects
    wanted = {"channels": expects.channels, "height": expects.height, "width": expects.width, "classes": expects.classes}
    found = {"channels": info.spec.channels, "height": info.spec.height, "width": info.spec.width, "classes": info.num_classes}
    for name, number in wanted.items():
        if number and number != found[name]:
            raise ConfigError(
                f"The recipe expects a teacher with {name} = {number}, but this one has {name} = {found[name]}: "
                f"choose another recipe or teacher, or override expects.{name}."
            )


def check_teacher(recipe: Recipe, info: BundleInfo, given: Given) -> None:
    """Refuse a teacher that the recipe was not written for, or a run that lacks what the method needs, if there is one.

    Raises:
        ConfigError: another task, image shape or class count, or a need of the method that the run does not meet.
    """
    check_expected(recipe, info)
    if isinstance(recipe, StudentRecipe) or (isinstance(recipe, StatisticsRecipe) and not recipe.inverts):
        return
    if isinstance(recipe, StatisticsRecipe):
        check_measurable(info)
    by_class = given.statistics is not None and given.statistics.by_class
    supply = Supply(info.has_batchnorm, by_class=by_class, ood=given.ood is not None, teacher=f" {info.architecture.name!r}")
    recipe.method.check(recipe.settings, supply)
    if by_class and "class_moments" not in recipe.method.required(recipe.settings):
        assert given.statistics is not None
        raise ConfigError(
            f"{spoken('synth_statistics_uri')} = {given.statistics.uri!r} holds moments of each class, and {recipe.method.name} matches "
            f"none of them: {recipe.method.way_to('class_moments')}, or leave it out."
        )


def open_given(values: Mapping[str, Value], recipe: Recipe, teacher: VerifiedBundle) -> Given:
    """Open all that a run form names for the training.

    Raises:
        DistilleryError: as `open_start`, `open_ood`, `open_moments`, `open_source` and `open_weights` do.
    """
    if isinstance(recipe, StatisticsRecipe):
        if not recipe.inverts:
            return Given(source=open_measured(str(values["images_uri"]), teacher))
        others = open_ood(str(values["synth_ood_uri"]), (), ood_of_turn(recipe.method, recipe.settings), teacher.info.spec)
        return Given(ood=others, statistics=_open_moments(values, teacher))
    weights = open_weights(str(values[FIELD]), recipe.student, teacher.info)
    if isinstance(recipe, StudentRecipe):
        check_begun(recipe, weights)
        labels = wants_labels(recipe.student, recipe.data.labels)
        names = recipe.student.class_names(teacher.info.class_names)
        source = open_source(str(values["images_uri"]), teacher.info, teacher.sha256, names, labels, recipe.data.holdout)
        others = open_ood(str(values["synth_ood_uri"]), recipe.student.stages, 0, teacher.info.spec)
        return Given(ood=others, source=source, weights=weights)
    start = open_start(str(values["synth_start_uri"]), recipe, teacher)
    a_turn = ood_of_turn(recipe.method, recipe.settings)
    others = open_ood(str(values["synth_ood_uri"]), recipe.student.stages, a_turn, teacher.info.spec)
    return Given(start, others, _open_moments(values, teacher), weights=weights)


def check_begun(recipe: StudentsRecipe, weights: VerifiedBundle | None) -> None:
    """Refuse a student without weights to begin with, where its recipe is the second part of a training.

    Raises:
        ConfigError: names what is missing.
    """
    if isinstance(recipe, StudentRecipe) and recipe.expects.student_start and weights is None:
        raise ConfigError(
            f"{spoken(FIELD)} is missing: the recipe goes on from the weights of a student or a teacher; give its bundle, or override "
            "expects.student_start."
        )


def _open_moments(values: Mapping[str, Value], teacher: VerifiedBundle) -> GivenMoments | None:
    uri = str(values["synth_statistics_uri"])
    return open_moments(uri, teacher.sha256, teacher.info.class_names) if uri else None


def ood_of_turn(method: Method, config: MethodConfig) -> int:
    """How many images of another domain a method draws at once, as far as its settings say; 0 where it learns from none."""
    return max(config.images_per_turn, 1) if "ood" in method.required(config) else 0


def open_ood(uri: str, stages: Sequence[StageConfig], a_turn: int, spec: ImageSpec) -> OodImages | None:
    """The images of another domain that stages mix into their batches or a method learns from, None where no URI is given.

    Args:
        uri: where they lie; "" for none.
        stages: of the student.
        a_turn: as `ood_of_turn` says it.
        spec: of the teacher's images.

    Raises:
        ConfigError: stages want some and none are given, some are given and nobody wants them, they do not fit the teacher, or they are
            too few for a batch.
        MissingResourceError: there is nothing at the URI.
        StoreError: damaged bytes.
    """
    check_ood(stages, bool(uri))
    if not uri:
        return None
    largest = max([a_turn, *(ood_images(stage.batch, stage.ood_share) for stage in stages if stage.ood_share)])
    if not largest:
        raise ConfigError(
            f"The images of another domain at {uri!r} are for nobody: the method learns from none and no stage of the student has an "
            "ood_share; set student.stages.N.ood_share above 0, or leave them out."
        )
    found = load_ood(uri, spec)
    if len(found.images) < largest:
        raise ConfigError(
            f"There are {len(found.images)} images of another domain at {uri!r}, but one batch takes {largest}: give at least as many, or "
            "make the batch or its ood_share smaller."
        )
    return found


def open_ood_of_trained(uri: str, stages: Sequence[StageConfig], made: SynthesizerFacts, spec: ImageSpec) -> OodImages | None:
    """As `open_ood`, for who only draws from a synthesizer: its method is not built without what it learned from.

    Args:
        uri: where they lie; "" for none.
        stages: of a student that is trained on what is drawn; () for none.
        made: the synthesizer.
        spec: of the teacher's images.
    """
    method = find_method(made.method)
    a_turn = ood_of_turn(method, method.parse(made.method_config, "method_config"))
    if a_turn and not uri:
        raise ConfigError(
            f"The synthesizer was trained by {method.title}, which learns from images of another domain, and none are given: "
            f"give those that it learned from as {spoken('synth_ood_uri')}."
        )
    return open_ood(uri, stages, a_turn, spec)


def open_start(uri: str, recipe: DistillationRecipe, teacher: VerifiedBundle) -> StartSet | None:
    """The set that the pool of an online run begins with, None where no URI is given.

    Raises:
        ConfigError: the student is not shown the pool, or the set's images do not fit the teacher.
        CheckpointMismatchError: a set of another teacher.
        MissingResourceError: no set is published there.
        StoreError: a damaged manifest.
    """
    if not uri:
        return None
    if recipe.synthesis.feed != "pool":
        raise ConfigError(
            f"{spoken('synth_start_uri')} = {uri!r} fills the pool, which synthesis.feed: {recipe.synthesis.feed} never shows the student: "
            "feed the pool, or leave it out."
        )
    return StartSet.open(uri, teacher.sha256, teacher.info.spec)


def check_room(recipe: Recipe, info: BundleInfo, more: int = 0) -> None:
    """Refuse more images than `set.max_bytes` allows, of a set or of an online run's pool, before hours go into a generator.

    Of images that are there nothing is refused.

    Args:
        recipe: resolved.
        info: of the teacher.
        more: images that the pool begins with.

    Raises:
        ConfigError: names the bytes and the bound.
    """
    if isinstance(recipe, StudentRecipe):
        return
    images, lower = (
        workload_of(recipe).kept + more,
        "set.size or synthesis.rounds, let synthesis.record sample what the student sees only once",
    )
    if isinstance(recipe, StatisticsRecipe):
        images, lower = recipe.per_class * info.num_classes * recipe.inverts, "per_class"
    size, bound = images * info.spec.channels * info.spec.height * info.spec.width, recipe.set.max_bytes
    if size > bound:
        raise ConfigError(f"The recipe's set keeps {images} images, {size} bytes, but set.max_bytes = {bound}: lower {lower}, or raise it.")


def check_plan(recipe: Recipe, given: Given, tested: bool) -> None:
    """Refuse a student's plan that needs true labels where the run has none.

    Args:
        recipe: which may train no student.
        given: to the run.
        tested: whether it has labelled images to evaluate on.

    Raises:
        ConfigError: names the objective, or the student's other classes.
    """
    if isinstance(recipe, StatisticsRecipe):
        return
    if not given.labelled:
        check_labels(recipe.student.stages)
        check_classes(recipe.student)
    check_judged(recipe.student, tested, recipe.registration.metric)


def check_data(uri: str, recipe: Recipe, info: BundleInfo) -> int:
    """Read the labelled test images once, and hand them to nobody: only `evaluate` measures on them.

    Args:
        uri: where they lie.
        recipe: whose student says the classes, where it has others than the teacher.
        info: of the teacher.

    Returns:
        How many they are.

    Raises:
        ConfigError: images of another size, or labels that the student has no class for.
        MissingResourceError: there is no such file.
    """
    from distillery.data.real import load_labelled

    names = training(recipe).student.class_names(info.class_names)
    labelled = load_labelled(uri, names, info.spec)
    labelled.check(info.spec, len(names))
    return len(labelled)


def warn_answers(recipe: Recipe) -> None:
    """Say so where no objective looks at the student's answers: in the end it knows no class, and serves to begin others with."""
    if isinstance(recipe, StatisticsRecipe):
        return
    objectives = [objective for stage in recipe.student.stages for objective in stage.objectives]
    if all("features" in needs_of(objective) for objective in objectives):
        names = ", ".join(dict.fromkeys(str(objective["name"]) for objective in objectives))
        logger.warning(
            "No objective of the student looks at its answers (%s), so in the end it knows no class: begin another one with its "
            "weights, as %s.",
            names,
            spoken(FIELD),
        )


def warn_schedule(recipe: Recipe) -> None:
    """Say so where the student's stages are not as long as its training beside the generator and after it: their rates would not fit."""
    if not isinstance(recipe, DistillationRecipe) or recipe.method.coupling == "offline":
        return
    planned = sum(stage.epochs * stage.steps_per_epoch for stage in recipe.student.stages)
    trained = recipe.online_steps
    if planned != trained:
        logger.warning(
            "The student trains for %d steps but its stages are planned for %d: change synthesis.rounds, synthesis.closing_rounds or "
            "student.stages.*.epochs.",
            trained,
            planned,
        )
