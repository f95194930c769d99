"""The first step of every pipeline: resolve the recipe, check everything that can be checked, and hand each step its section."""

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from distillery.ledger.runs import write_run
from distillery.models.bundle import VerifiedBundle
from distillery.models.catalog import code_of_others
from distillery.placement.pools import PLACED as PLACED
from distillery.placement.profiles import choose_placement, without_placement
from distillery.provenance import Provenance, code_version
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.loader import recipe_name
from distillery.recipes.parameters import Value, read_parameters
from distillery.recipes.schema import DistillationRecipe, Recipe, StudentsRecipe
from distillery.recipes.sections import SECTIONS, common_fields
from distillery.step_table import PIPELINES, STEPS
from distillery.synthesis.share import ALONE, Share
from distillery.tracking.open import check_observer, open_parent
from distillery.workbench.amounts import warn_quotas, warn_space
from distillery.workbench.bench import open_run_store, reporting, runtime_here, workspace
from distillery.workbench.given import absolute
from distillery.workbench.keys import step_versions
from distillery.workbench.networks import check_networks
from distillery.workbench.planning import (
    Given,
    check_data,
    check_expected,
    check_pipeline,
    check_plan,
    check_room,
    check_teacher,
    ood_of_turn,
    open_given,
    recipe_source,
    resolve_recipe,
    verify_teacher,
    warn_answers,
    warn_schedule,
)
from distillery.workbench.sharding import cut

logger = logging.getLogger(__name__)


@reporting("plan")
def run(pipeline: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Plan a run.

    Args:
        pipeline: its name in the table.
        parameters: the run form's values by name; a missing one, "" or 0 means the default, which may be the recipe's own.

    Returns:
        Section name -> the section as JSON, see `recipes.sections.SECTIONS`; of a step that is fanned out a list of them. Where the form
        says where tasks run, beside them what each size of step is given, by the names of `PLACED`.

    Raises:
        ConfigError: anything that does not fit, as one sentence.
        CheckpointMismatchError: another teacher than the pinned one.
        MissingResourceError: no such file or bundle.
        StoreError: a damaged bundle, or a store that cannot be written.
    """
    store = open_run_store()  # before anything is fetched: a store that loses everything is refused in the first second
    check_observer()
    placement = choose_placement(parameters)
    values = read_parameters(pipeline, without_placement(parameters))
    source = recipe_source(values)
    recipe = resolve_recipe(pipeline, values)
    check_pipeline(pipeline, recipe, source)
    teacher = verify_teacher(str(values["teacher_uri"]), str(values["teacher_sha256"]))
    check_expected(recipe, teacher.info)
    given = open_given(values, recipe, teacher)
    check_room(recipe, teacher.info, given.start.images if given.start else 0)
    if values["eval_data_uri"]:
        check_data(str(values["eval_data_uri"]), recipe, teacher.info)
    check_plan(recipe, given, bool(values["eval_data_uri"]))
    check_networks(recipe, teacher, runtime_here(recipe.precision))
    check_teacher(recipe, teacher.info, given)
    warn_quotas(recipe, teacher.info)
    warn_space(recipe, teacher.info, store, given.start.images if given.start else 0)
    warn_schedule(recipe)
    warn_answers(recipe)
    shards = cut(recipe, teacher, placement, runtime_here(recipe.precision).device)
    sections = build_sections(pipeline, recipe, values, teacher, given, shards)
    _record(pipeline, recipe, values, teacher, sections, given)
    return {**sections, **(placement.pools.outputs() if placement else {})}


def build_sections(
    pipeline: str, recipe: Recipe, values: Mapping[str, Value], teacher: VerifiedBundle, given: Given, shards: Sequence[Share] = (ALONE,)
) -> dict[str, Any]:
    """Every section of the pipeline as plain JSON; where its generator is fanned out, a list with the section of each shard."""
    common = common_fields(values["run_seed"], teacher.sha256, recipe.precision, teacher.info.architecture)
    common["salt"] = values["run_salt"]
    if isinstance(recipe, StatisticsRecipe):
        parts = _of_statistics(recipe, teacher, given)
    else:
        parts = _of_student(recipe, teacher, given, recipe_name(recipe_source(values)), shards[-1].last)
    if given.source:
        parts["source"] = given.source.section(teacher.info)
    sections: dict[str, Any] = {}
    for step in PIPELINES[pipeline].steps:
        if not (name := STEPS[step].section):
            continue
        section = SECTIONS[name].parse({**common, **parts[name]}, name)
        if step in PIPELINES[pipeline].fanned:
            sections[STEPS[step].sections] = [section.model_copy(update={"share": share}).to_json() for share in shards]
        else:
            sections[name] = section.to_json()
    return sections


def _of_student(recipe: StudentsRecipe, teacher: VerifiedBundle, given: Given, name: str, generators: int) -> dict[str, dict[str, Any]]:
    """What the steps of a run get that trains a student, beside what all get."""
    both = code_of_others(teacher.info.architecture, recipe.student.architecture)
    _, mixed, _ = pinned = _ood_of(recipe, given)
    begun = {"student_start_sha256": given.weights.sha256 if given.weights else ""}
    withheld = {"holdout": given.source.share} if given.source else {}
    parts: dict[str, dict[str, Any]] = {
        "student": {**both, **mixed, **begun, **withheld, "student": recipe.student},
        "evaluation": {**both, "evaluation": recipe.evaluation},
        "registration": {**both, "recipe": name, "registration": recipe.registration},
    }
    if isinstance(recipe, DistillationRecipe):
        parts |= _synthesis(recipe, given, both, pinned)
        parts["distill"] |= begun
        parts["materialize"]["generators"] = generators
    return parts


def _of_statistics(recipe: StatisticsRecipe, teacher: VerifiedBundle, given: Given) -> dict[str, dict[str, Any]]:
    """What the steps of a run get that measures statistics of each class, beside what all get."""
    parts: dict[str, dict[str, Any]] = {"class_statistics": {}}
    if recipe.inverts:
        parts["statistics"] = given.statistics.section() if given.statistics else {}
        synthesis: dict[str, Any] = {"method": recipe.synthesis.method, "method_config": recipe.synthesis.config}
        synthesis |= {"ood_sha256": given.ood.digest} if given.ood else {}
        parts["materialize"] = {**synthesis, "set": recipe.drawn(teacher.info.num_classes), "health": recipe.health}
    return parts


def _synthesis(
    recipe: DistillationRecipe, given: Given, both: Mapping[str, Any], pinned: tuple[dict[str, str], dict[str, str], dict[str, str]]
) -> dict[str, dict[str, Any]]:
    """What the steps that make images, and the one that trains a student meanwhile, get beside what all get."""
    synthesis = recipe.synthesis
    method = {"method": synthesis.method, "method_config": synthesis.config}
    learned, _, all_ood = pinned
    rounds = {name: getattr(synthesis, name) for name in ("rounds", "turns_per_round", "checkpoint_every")}
    return {
        "statistics": given.statistics.section() if given.statistics else {"kind": recipe.statistics.kind},
        "generator": {**method, **rounds, **learned},
        "materialize": {**method, **learned, "set": recipe.set, "health": recipe.health},
        "distill": {
            **method,
            **rounds,
            **both,
            **all_ood,
            "student": recipe.student,
            "student_steps_per_turn": synthesis.student_steps_per_turn,
            "closing_rounds": synthesis.closing_rounds,
            "feed": synthesis.feed,
            "record": synthesis.record,
            "start_sha256": given.start.digest if given.start else "",
            "holdout": recipe.set.holdout,
            "health": recipe.health,
            "strict": recipe.set.strict,
        },
    }


def _ood_of(recipe: StudentsRecipe, given: Given) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The images of another domain as the sections of a method, of a student and of both pin them: a step that uses none names none."""
    by_method = isinstance(recipe, DistillationRecipe) and bool(ood_of_turn(recipe.method, recipe.settings))
    by_student = any(stage.ood_share for stage in recipe.student.stages)
    used = by_method, by_student, by_method or by_student
    first, second, third = ({"ood_sha256": given.ood.digest} if given.ood and uses else {} for uses in used)
    return first, second, third


def _record(
    pipeline: str,
    recipe: Recipe,
    values: Mapping[str, Value],
    teacher: VerifiedBundle,
    sections: Mapping[str, Mapping[str, Any]],
    given: Given,
) -> None:
    """Leave `runs/<id>/run.json`, which alone suffices to run again, and create the parent run of the tracker."""
    now = datetime.now(UTC)
    identity = os.environ.get("KFP_RUN_ID") or f"local-{now:%Y%m%dT%H%M%S.%fZ}"
    name, config = recipe_name(recipe_source(values)), recipe.to_json()
    seeds = {"run": values["run_seed"]}
    provenance = Provenance(inputs={"teacher": teacher.sha256}, config=config, seeds=seeds, code_version=code_version())
    fields = {
        "pipeline": pipeline,
        "recipe": name,
        "parameters": dict(values),
        "sections": dict(sections),
        "step_versions": step_versions(),
        "planned": now.isoformat(timespec="seconds"),
        "host": platform.node(),
        "image": os.environ.get("DISTILLERY_IMAGE", ""),
    }
    if given.source:
        fields["source"] = {"uri": absolute(given.source.uri), "sha256": given.source.sha256}
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
