"""Where the tasks of a pipeline run: node pools, accelerators, time limits, credentials by name."""

import math
from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from distillery.placement.pools import fields_of
from distillery.placement.profiles import FIELDS
from distillery_kfp.pipelines.metadata import component_of, metadata
from distillery_kfp.pipelines.variables import SCRATCH_MOUNT, SETTINGS_MOUNT, VARIABLES, keys_of

SHARED_MEMORY = "2Gi"
FIRST_WAIT_SECONDS, WAIT_FACTOR = 60, 2.0
"""Before the first retry, and how much longer each further wait is."""
QUEUE_SECONDS = 24 * 3600
"""How long each attempt may wait for a node, beyond its time limit, which counts from the pod's start only."""


def for_plan(form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run form that the plan step reads: what the recipe knows, and what it can check of the cluster's."""
    return {name: value for name, value in form.items() if not name.startswith("k8s_") or name in FIELDS}


def retry_window(retries: int, timeout_seconds: int) -> int:
    """Seconds from the first attempt's start in which every attempt may use its whole time limit.

    `backoff_max_duration` is no cap of one wait: once it is over, Argo Workflows 4.0 starts no retry and stops the one that runs.

    Args:
        retries: after the first attempt.
        timeout_seconds: of one attempt.
    """
    waits = sum(FIRST_WAIT_SECONDS * WAIT_FACTOR**retry for retry in range(retries))
    return (retries + 1) * timeout_seconds + math.ceil(waits)


def place(task: dsl.PipelineTask, form: Mapping[str, Any]) -> dsl.PipelineTask:
    """Give a task what its metadata.yaml, the plan and the pipeline's `k8s_` parameters say.

    What no parameter can say, and all that the plan's own pod needs, `deployment` puts in once the pipeline is compiled.

    Args:
        task: a task of one component (the Kubernetes settings do nothing on a nested pipeline).
        form: the pipeline's parameters and, behind the plan, what that says of places, by name.

    Returns:
        The same task.
    """
    about = metadata(component_of(task.component_spec.name))
    task.set_caching_options(about.caching)
    kubernetes.set_timeout(task, about.timeout_seconds)
    if about.retries:
        task.set_retry(
            num_retries=about.retries,
            backoff_duration=f"{FIRST_WAIT_SECONDS}s",
            backoff_factor=WAIT_FACTOR,
            backoff_max_duration=f"{retry_window(about.retries, about.timeout_seconds) + (about.retries + 1) * QUEUE_SECONDS}s",
        )
    _inform(task, form)
    # kfp 2.17 cannot ask for ephemeral storage (kubeflow/pipelines#11137): the volume has a limit but reserves nothing, and Kubeflow's own
    # copies of artifacts lie outside it. A LimitRange of the namespace covers both; the guide has one.
    kubernetes.empty_dir_mount(task, "distillery-scratch", SCRATCH_MOUNT, size_limit=about.scratch)
    if about.gpu != "none":
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)
    if about.size != "first":
        _give_room(task, {name: form[f"{about.size}_{name}"] for name in fields_of(about.size)})
    return task


def _inform(task: dsl.PipelineTask, form: Mapping[str, Any]) -> None:
    """Hand a step the variables that it reads; `variables` says which are required and why the others are not."""
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(task, form["k8s_settings"], keys_of("config map", required=True), optional=False)
    kubernetes.use_config_map_as_env(task, form["k8s_settings"], keys_of("config map"), optional=True)
    kubernetes.use_config_map_as_volume(task, form["k8s_settings"], SETTINGS_MOUNT, optional=False)
    kubernetes.use_secret_as_env(task, form["k8s_credentials"], keys_of("secret"), optional=True)
    for row in VARIABLES.values():
        if row.value:
            task.set_env_variable(row.name, row.value)


def _give_room(task: dsl.PipelineTask, pool: Mapping[str, Any]) -> None:
    """Ask for what the plan says of a size of step: each a channel of kfp."""
    task.set_cpu_request(pool["cpu_request"])
    task.set_cpu_limit(pool["cpu_limit"])
    task.set_memory_request(pool["memory_request"])
    task.set_memory_limit(pool["memory_limit"])
    if "accelerator" in pool:
        task.set_accelerator_type(pool["accelerator"])
        task.set_accelerator_limit(pool["accelerators"])
    kubernetes.add_node_selector_json(task, pool["node_selector"])
    kubernetes.add_toleration_json(task, pool["tolerations"])
    # kfp 2.17 does not carry resources into a loop or condition around the task by itself
    task.register_pipeline_channels(list(pool.values()))
