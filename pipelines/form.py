"""The run form of each pipeline: what a field means and which values it offers; imports neither kfp nor torch.

The fields that a recipe knows stand in `distillery.recipes.parameters`, where the plan step checks them too; here are those of the
cluster alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.placement.profiles import DEFAULT_PROFILE, WITHOUT_ACCELERATORS, choose_placement, without_placement
from distillery.recipes.loader import list_recipes
from distillery.recipes.parameters import Parameter, parameters_of, read_parameters
from distillery.recipes.student_plans import plan_names, plans_without_labels
from distillery.step_table import PIPELINES

ALL = tuple(row.name for row in PIPELINES.values() if row.recipe)
"""Names of the pipelines that are offered: those that a preset asks for."""
GROUPS = ("run_", "teacher_", "images_", "gen_", "synth_", "student_", "eval_", "mlflow_", "k8s_")
"""Prefixes of the fields: the form sorts by the alphabet, so that a group stays together."""
CLUSTER = {
    row.name: row
    for row in (
        Parameter("k8s_credentials", "distillery-credentials", "Secret with the credentials of the store and of the tracking server."),
        Parameter("k8s_overrides", {}, 'Values in place of the profile, by size and field: {"large.memory_limit": "64Gi"}.'),
        Parameter("k8s_settings", "distillery-settings", "ConfigMap with the addresses of the store and of the tracking server."),
        Parameter("run_profile", DEFAULT_PROFILE, "Profile of the cluster's nodes: accelerators, CPU, memory, labels and taints."),
    )
}
"""Fields that only a cluster reads."""
NO_PROMISE = {"run_profile": WITHOUT_ACCELERATORS}
"""What a run says where no cluster is asked for accelerators: a step takes what the machine has."""


NAMES = {"k8s_credentials": "Secret", "k8s_settings": "ConfigMap"}
"""Fields that name an object of the namespace, offered as choices: emptied, each fails in Kubeflow's driver for every task."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # no dots: a volume is called like the ConfigMap


def required(pipeline: str) -> tuple[str, ...]:
    """Fields that the run form must be given; Kubeflow's form and API refuse a run without them."""
    return tuple(name for name, row in fields(pipeline).items() if row.required)


def check_form(pipeline: str, given: Mapping[str, Any]) -> None:
    """Refuse, before anything is submitted, what Kubeflow would take and no run could survive.

    Args:
        pipeline: a name of `ALL`.
        given: the run form's values by name; what is left out keeps its default.

    Raises:
        ConfigError: an unknown field, a required one that is missing or empty, an object's name that cannot be one, or a place that no
            cluster has.
    """
    choose_placement(given)
    values = read_parameters(pipeline, without_placement({name: value for name, value in given.items() if name not in NAMES}))
    for name in required(pipeline):
        if not values[name]:
            raise ConfigError(f"{spoken(name)} is missing: {fields(pipeline)[name].summary}")
    for name, kind in NAMES.items():
        if name in given:
            check_name(name, kind, given[name])


def check_name(field: str, kind: str, name: Any) -> None:
    """Refuse what cannot be the name of a Secret or ConfigMap.

    Raises:
        ConfigError: names the field.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{field} = {name!r} is not allowed: name a {kind} of the namespace, by up to 63 small letters, digits and hyphens; "
            "Kubeflow fails every task of a run without it."
        )


def profiles_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Profiles that a compiled pipeline brings along for its plan, by name; none where it offers only the package's.

    Args:
        spec: the first document of the file.
    """
    inputs = spec["root"].get("dag", {}).get("tasks", {}).get("plan", {}).get("inputs", {}).get("parameters", {})
    found: dict[str, Any] = inputs.get("profiles", {}).get("runtimeValue", {}).get("constant", {})
    return found


def fields(pipeline: str) -> dict[str, Parameter]:
    """Fields of the pipeline's form that the plan step reads."""
    return {row.name: row for row in parameters_of(pipeline).values() if row.means_something(pipeline)}


def summaries(pipeline: str) -> dict[str, str]:
    """What each field of the pipeline's form means."""
    return {row.name: row.summary for row in (*fields(pipeline).values(), *CLUSTER.values())}


def literals(pipeline: str) -> dict[str, tuple[str, ...]]:
    """Fields of the pipeline's form that are a choice, with the values they offer."""
    plans = plan_names() if PIPELINES[pipeline].kind == "student" else plans_without_labels()
    recipes = tuple(recipe.name for recipe in list_recipes() if recipe.pipeline == pipeline)
    own = {"student_method": ("", *plans)} if "student_method" in fields(pipeline) else {}  # the empty one is the recipe's own
    return {"run_recipe": recipes, **own}
