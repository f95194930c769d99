"""The run form of each pipeline: what a field means and which values it offers; imports neither kfp nor torch.

The fields that a recipe knows stand in `distillery.recipes.parameters`, where the plan step checks them too; here are those of the
cluster alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.recipes.loader import list_recipes
from distillery.recipes.parameters import Parameter, parameters_of, read_parameters
from distillery.recipes.placement import check_placement
from distillery.recipes.student_plans import plan_names, plans_without_labels
from distillery.step_table import PIPELINES

ALL = tuple(row.name for row in PIPELINES.values() if row.recipe)
"""Names of the pipelines that are offered: those that a preset asks for."""
GROUPS = ("run_", "teacher_", "images_", "gen_", "synth_", "student_", "eval_", "mlflow_", "k8s_")
"""Prefixes of the fields: the form sorts by the alphabet, so that a group stays together."""
CLUSTER = {
    row.name: row
    for row in (
        Parameter("k8s_cpu_limit", "4", "CPUs that a task that trains may use at most."),
        Parameter("k8s_cpu_request", "2", "CPUs of a task that trains."),
        Parameter("k8s_credentials", "distillery-credentials", "Secret with the credentials of the store and of the tracking server."),
        Parameter("k8s_gpu_limit", "1", "Accelerators of a task that trains; 0 runs it on CPUs."),
        Parameter("k8s_gpu_node_selector", {}, "Node labels for the tasks that train."),
        Parameter("k8s_gpu_tolerations", [], "Tolerations of the tasks that train."),
        Parameter("k8s_gpu_type", "nvidia.com/gpu", "Resource name of the accelerator."),
        Parameter("k8s_memory_limit", "16Gi", "Memory limit of a task that trains; /dev/shm counts against it."),
        Parameter("k8s_memory_request", "8Gi", "Memory of a task that trains."),
        Parameter("k8s_settings", "distillery-settings", "ConfigMap with the addresses of the store and of the tracking server."),
    )
}
"""Fields that only a cluster reads."""
NO_PROMISE = {"k8s_gpu_limit": "0"}
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
        ConfigError: an unknown field, a required one that is missing or empty, an object's name that cannot be one, or amounts and
            labels that no cluster could place.
    """
    own = check_placement({name: value for name, value in given.items() if name not in NAMES})
    values = read_parameters(pipeline, own)
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
    return {"run_recipe": recipes, "student_method": ("", *plans)}  # the empty one is the recipe's own
