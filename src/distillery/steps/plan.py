"""The first step of every pipeline: resolve the recipe, check everything that can be checked, and hand each step its section."""

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillery.errors import CheckpointMismatchError, ConfigError, StoreError
from distillery.methods.catalog import methods_without
from distillery.models.allowance import check_allowed
from distillery.models.bundle import WEIGHTS, BundleInfo, fetch_bundle, read_bundle
from distillery.models.catalog import code_of_others
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.recipes.cost import estimate_cost
from distillery.recipes.loader import apply_overrides, is_own_file, load_document, recipe_name
from distillery.recipes.parameters import Value, parameters_of, read_parameters
from distillery.recipes.placement import check_placement
from distillery.recipes.schema import SECTIONS, Recipe
from distillery.steps.keys import step_versions
from distillery.steps.networks import check_networks
from distillery.steps.runs import write_run
from distillery.steps.workbench import open_run_store, reporting, runtime_here, workspace
from distillery.tracking.protocol import open_parent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A verified teacher: its bundle's JSON, digest and folder; its weights are not loaded."""

    info: BundleInfo
    sha256: str
    folder: Path


@reporting("plan")
def run(pipeline: str, parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plan a run.

    Args:
        pipeline: generative_distillation or online_distillation.
        parameters: the run form's values by name; a missing one, "" or 0 means the default, which may be the recipe's own.

    Returns:
        Section name -> the section as JSON, see `recipes.schema.SECTIONS`.

    Raises:
        ConfigError: anything that does not fit, as one sentence.
        CheckpointMismatchError: another teacher than the pinned one.
        MissingResourceError: no such file or bundle.
        StoreError: a damaged bundle, or a store that cannot be written.
    """
    open_run_store()  # before anything is fetched: a store that loses everything is refused in the first second
    values = read_parameters(pipeline, check_placement(parameters))
    source = recipe_source(values)
    recipe = resolve_recipe(pipeline, values)
    check_pipeline(pipeline, recipe, source)
    teacher = open_teacher(str(values["teacher_uri"]), str(values["teacher_sha256"]))
    check_expected(recipe, teacher.info)
    check_room(recipe, teacher.info)
    if values["eval_data_uri"]:
        check_data(str(values["eval_data_uri"]), teacher.info)
    check_networks(recipe, teacher.folder, teacher.info, runtime_here(recipe.precision))
    check_teacher(recipe, teacher.info)
    warn_schedule(recipe)
    sections = build_sections(pipeline, recipe, values, teacher)
    _record(pipeline, recipe, values, teacher, sections)
    return sections


def recipe_source(values: Mapping[str, Value]) -> str:
    """The preset or file that a run asks for; a file wins.

    Raises:
        ConfigError: a run_recipe_uri that is no YAML file, a file in run_recipe, or neither of the two.
    """
    name, uri = str(values["run_recipe"]), str(values["run_recipe_uri"])
    if uri and not is_own_file(uri):
        raise ConfigError(f"run_recipe_uri = {uri!r} is not allowed: give a path or URI ending in .yaml, or name a preset in run_recipe.")
    if not uri and (not name or is_own_file(name)):
        raise ConfigError(f"run_recipe = {name!r} is not allowed: name a preset, or put a file of your own into run_recipe_uri.")
    return uri or name


def resolve_recipe(pipeline: str, values: Mapping[str, Value]) -> Recipe:
    """The recipe with the run form's fields and then `run_overrides` put in.

    Raises:
        ConfigError: an unknown recipe or key, a wrong type.
    """
    rows = parameters_of(pipeline).values()
    fields = {row.path: values[row.name] for row in rows if row.path and values[row.name]}
    document = apply_overrides(load_document(recipe_source(values)), fields)
    overrides = values["run_overrides"]
    assert isinstance(overrides, dict)
    return Recipe.resolve(apply_overrides(document, overrides))


def check_pipeline(pipeline: str, recipe: Recipe, source: str) -> None:
    """Refuse a recipe whose method belongs to the other pipeline.

    Raises:
        ConfigError: naming the pipeline that runs it.
    """
    if recipe.pipeline != pipeline:
        method = recipe.method
        raise ConfigError(
            f"Recipe {recipe_name(source)!r} uses {method.title}, an {method.coupling} method, which {pipeline} does not run: "
            f"run it with {recipe.pipeline}."
        )


def open_teacher(uri: str, pinned: str) -> Teacher:
    """Read a teacher's bundle and verify its bytes.

    Raises:
        ConfigError: no teacher was given, or one of a module that nobody allowed.
        CheckpointMismatchError: its digest is not the pinned one.
        MissingResourceError: there is no bundle.
        StoreError: the weights fail their hash.
    """
    if not uri:
        raise ConfigError("teacher_uri is missing: give the bundle folder that `distillery import-teacher` wrote.")
    folder = fetch_bundle(uri, workspace() / "bundles")
    info, sha256 = read_bundle(folder)
    check_allowed(info.architecture.name)
    if pinned and sha256 != pinned:
        raise CheckpointMismatchError(
            f"The teacher {uri!r} has sha256 {sha256}, but teacher_sha256 asks for {pinned}: "
            f"give that teacher, or leave teacher_sha256 empty."
        )
    if sha256_file(folder / WEIGHTS) != info.weights_sha256:
        raise StoreError(f"The weights of the teacher {uri!r} fail their sha256, so they are damaged: fetch or import the teacher again.")
    return Teacher(info, sha256, folder)


def check_expected(recipe: Recipe, info: BundleInfo) -> None:
    """Refuse a teacher that the recipe was not written for.

    Raises:
        ConfigError: another image shape or class count.
    """
    expects = recipe.expects
    wanted = {"channels": expects.channels, "height": expects.height, "width": expects.width, "classes": expects.classes}
    found = {"channels": info.spec.channels, "height": info.spec.height, "width": info.spec.width, "classes": info.num_classes}
    for name, number in wanted.items():
        if number and number != found[name]:
            raise ConfigError(
                f"The recipe expects a teacher with {name} = {number}, but this one has {name} = {found[name]}: "
                f"choose another recipe or teacher, or override expects.{name}."
            )


def check_teacher(recipe: Recipe, info: BundleInfo) -> None:
    """Refuse a teacher that the recipe was not written for, or that lacks what the method needs.

    Raises:
        ConfigError: another image shape or class count, or no BatchNorm2d statistics where the method matches moments.
    """
    check_expected(recipe, info)
    if "moments" in recipe.method.required(recipe.synthesis.config) and not info.has_batchnorm:
        raise ConfigError(
            f"{recipe.method.name} matches BatchNorm statistics, but the teacher {info.architecture.name!r} has no BatchNorm2d layer with "
            "running statistics that a forward pass visits; "
            f"what works without: {methods_without('moments')}; choose one of them or a teacher with BatchNorm2d."
        )


def check_room(recipe: Recipe, info: BundleInfo) -> None:
    """Refuse more images than `set.max_bytes` allows, of a set or of an online run's pool, before hours go into a generator.

    Raises:
        ConfigError: names the bytes and the bound.
    """
    images, bound = estimate_cost(recipe).images, recipe.set.max_bytes
    size = images * info.spec.channels * info.spec.height * info.spec.width
    if size > bound:
        raise ConfigError(
            f"The recipe makes {images} images, {size} bytes, but set.max_bytes = {bound}: lower set.size or synthesis.rounds, or raise it."
        )


def check_data(uri: str, info: BundleInfo) -> None:
    """Read the labelled test images once, and hand them to nobody: only `evaluate` measures on them.

    Raises:
        ConfigError: images of another size, or labels that the teacher does not know.
        MissingResourceError: there is no such file.
    """
    from distillery.data.real import load_labelled

    load_labelled(uri, info.class_names, info.spec).check(info.spec, info.num_classes)


def warn_schedule(recipe: Recipe) -> None:
    """Say so where the student's stages are not as long as its training beside the generator and after it: their rates would not fit."""
    if recipe.method.coupling == "offline":
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


def build_sections(pipeline: str, recipe: Recipe, values: Mapping[str, Value], teacher: Teacher) -> dict[str, dict[str, Any]]:
    """Every section of the pipeline as plain JSON."""
    synthesis = recipe.synthesis
    common = {
        "seed": values["run_seed"],
        "salt": values["run_salt"],
        "code_version": code_version(),
        "teacher_sha256": teacher.sha256,
        **code_of_others(teacher.info.architecture),
        "precision": recipe.precision,
    }
    both = code_of_others(teacher.info.architecture, recipe.student.architecture)
    method = {"method": synthesis.method, "method_config": synthesis.config}
    rounds = {"rounds": synthesis.rounds, "checkpoint_every": synthesis.checkpoint_every}
    parts: dict[str, dict[str, Any]] = {
        "statistics": {"kind": recipe.statistics.kind},
        "generator": {**method, **rounds},
        "materialize": {**method, "set": recipe.set, "health": recipe.health},
        "student": {**both, "student": recipe.student},
        "distill": {
            **method,
            **rounds,
            **both,
            "student": recipe.student,
            "student_steps_per_round": synthesis.student_steps_per_round,
            "closing_rounds": synthesis.closing_rounds,
            "feed": synthesis.feed,
            "holdout": recipe.set.holdout,
            "health": recipe.health,
            "strict": recipe.set.strict,
        },
        "evaluation": {**both, "evaluation": recipe.evaluation},
        "registration": {**both, "recipe": recipe_name(recipe_source(values)), "registration": recipe.registration},
    }
    return {name: cls.parse({**common, **parts[name]}, name).to_json() for name, cls in SECTIONS[pipeline].items()}


def _record(
    pipeline: str, recipe: Recipe, values: Mapping[str, Value], teacher: Teacher, sections: Mapping[str, Mapping[str, Any]]
) -> None:
    """Leave `runs/<id>/run.json`, which alone suffices to run again, and create the parent run of the tracker."""
    now = datetime.now(UTC)
    identity = os.environ.get("KFP_RUN_ID") or f"local-{now:%Y%m%dT%H%M%S.%fZ}"
    name, config = recipe_name(recipe_source(values)), recipe.to_json()
    seeds = {"run": sections["statistics"]["seed"]}
    provenance = Provenance(inputs={"teacher": teacher.sha256}, config=config, seeds=seeds, code_version=code_version())
    fields = {
        "pipeline": pipeline,
        "parameters": dict(values),
        "sections": dict(sections),
        "step_versions": step_versions(),
        "planned": now.isoformat(timespec="seconds"),
        "host": platform.node(),
        "image": os.environ.get("DISTILLERY_IMAGE", ""),
    }
    write_run(open_run_store(), identity, provenance, fields)
    tags = {
        "pipeline": pipeline,
        "recipe": name,
        "teacher_sha256": teacher.sha256,
        "config_sha256": recipe.digest(),
        "code_version": code_version(),
    }
    open_parent(f"{pipeline} {name}", workspace() / "tracking" / "parent", {"recipe": config, **seeds}, tags)
    logger.info("plan: %s with %s, teacher %s.", pipeline, name, teacher.sha256[:12])
