"""Where the tasks of a pipeline run: node pools, accelerators, time limits, credentials by name."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from distillery_kfp.pipelines.metadata import metadata

SHARED_MEMORY = "2Gi"
SETTINGS = {
    "store": "DISTILLERY_STORE",
    "mlflow_tracking_uri": "MLFLOW_TRACKING_URI",
    "s3_endpoint_url": "S3_ENDPOINT_URL",
    "s3_region": "AWS_DEFAULT_REGION",
}
"""Keys of the ConfigMap `k8s_settings` and the variables that steps read."""
CREDENTIALS = {
    "s3_access_key": "AWS_ACCESS_KEY_ID",
    "s3_secret_key": "AWS_SECRET_ACCESS_KEY",
    "mlflow_username": "MLFLOW_TRACKING_USERNAME",
    "mlflow_password": "MLFLOW_TRACKING_PASSWORD",
    "mlflow_token": "MLFLOW_TRACKING_TOKEN",
}
"""Keys of the Secret `k8s_credentials` and the variables that steps read; no value of theirs ever enters the compiled file."""


def for_recipe(form: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run form that the plan step reads."""
    return {name: value for name, value in form.items() if not name.startswith("k8s_")}


def place(task: dsl.PipelineTask, form: Mapping[str, Any]) -> dsl.PipelineTask:
    """Give a task what its metadata.yaml and the pipeline's `k8s_` parameters say.

    Args:
        task: a task of one component (the Kubernetes settings do nothing on a nested pipeline).
        form: the pipeline's parameters by name.

    Returns:
        The same task.
    """
    about = metadata(task.name.replace("-", "_"))
    task.set_caching_options(about.caching)
    kubernetes.set_timeout(task, about.timeout_seconds)
    if about.retries:
        task.set_retry(num_retries=about.retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="600s")
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
    task.set_memory_request(form["k8s_memory_request"])
    task.set_memory_limit(form["k8s_memory_limit"])
    names = ("k8s_gpu_type", "k8s_gpu_limit", "k8s_cpu_request", "k8s_memory_request", "k8s_memory_limit")
    # kfp 2.17 does not carry these five into a loop or condition around the task by itself
    task.register_pipeline_channels([form[name] for name in names])
    kubernetes.add_node_selector_json(task, form["k8s_gpu_node_selector"])
    kubernetes.add_toleration_json(task, form["k8s_gpu_tolerations"])
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)
