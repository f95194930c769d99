"""Where the tasks of a pipeline run: node pools, accelerators, time limits, credentials by name."""

import math
from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from distillery.recipes.placement import PLACEMENT
from distillery_kfp.pipelines.metadata import component_of, metadata

SHARED_MEMORY = "2Gi"
FIRST_WAIT_SECONDS, WAIT_FACTOR = 60, 2.0
"""Before the first retry, and how much longer each further wait is."""
QUEUE_SECONDS = 24 * 3600
"""How long each attempt may wait for a node, beyond its time limit, which counts from the pod's start only."""
SETTINGS = {
    "store": "DISTILLERY_STORE",
    "mlflow_tracking_uri": "MLFLOW_TRACKING_URI",
    "s3_endpoint_url": "S3_ENDPOINT_URL",
    "s3_region": "AWS_DEFAULT_REGION",
}
"""Keys of the ConfigMap `k8s_settings` and the variables that steps read."""
AMOUNTS = ("k8s_cpu_limit", "k8s_cpu_request", "k8s_gpu_limit", "k8s_gpu_type", "k8s_memory_limit", "k8s_memory_request")
"""Fields behind the resources of a task; texts, all of them, because the backend reads a number as nothing."""
CREDENTIALS = {
    "s3_access_key": "AWS_ACCESS_KEY_ID",
    "s3_secret_key": "AWS_SECRET_ACCESS_KEY",
    "mlflow_username": "MLFLOW_TRACKING_USERNAME",
    "mlflow_password": "MLFLOW_TRACKING_PASSWORD",
    "mlflow_token": "MLFLOW_TRACKING_TOKEN",
}
"""Keys of the Secret `k8s_credentials` and the variables that steps read; no value of theirs ever enters the compiled file."""


def for_plan(form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run form that the plan step reads: what the recipe knows, and what it can check of the cluster's."""
    return {name: value for name, value in form.items() if not name.startswith("k8s_") or name in PLACEMENT}


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
    """Give a task what its metadata.yaml and the pipeline's `k8s_` parameters say.

    Args:
        task: a task of one component (the Kubernetes settings do nothing on a nested pipeline).
        form: the pipeline's parameters by name.

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
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(task, form["k8s_settings"], SETTINGS, optional=True)
    kubernetes.use_secret_as_env(task, form["k8s_credentials"], CREDENTIALS, optional=True)
    if about.gpu != "none":
        _on_accelerator(task, form)
    return task


def _on_accelerator(task: dsl.PipelineTask, form: Mapping[str, Any]) -> None:
    task.set_accelerator_type(form["k8s_gpu_type"])
    task.set_accelerator_limit(form["k8s_gpu_limit"])
    task.set_cpu_request(form["k8s_cpu_request"])
    task.set_cpu_limit(form["k8s_cpu_limit"])
    task.set_memory_request(form["k8s_memory_request"])
    task.set_memory_limit(form["k8s_memory_limit"])
    # kfp 2.17 does not carry these into a loop or condition around the task by itself
    task.register_pipeline_channels([form[name] for name in AMOUNTS])
    kubernetes.add_node_selector_json(task, form["k8s_gpu_node_selector"])
    kubernetes.add_toleration_json(task, form["k8s_gpu_tolerations"])
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)
