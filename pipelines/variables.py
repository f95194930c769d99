"""Every environment variable that a step reads, and how it comes into a pod: one table, for the pipelines, their lint and the guide."""

from dataclasses import dataclass
from typing import Literal

Way = Literal["config map", "secret", "task", "platform", "nobody"]

SETTINGS_MOUNT = "/etc/distillery"
"""Where the ConfigMap `k8s_settings` is mounted, so that a certificate in it is a file."""
SCRATCH_MOUNT = "/scratch"
"""Where a task's volume of limited size is mounted."""


@dataclass(frozen=True)
class Variable:
    """One row.

    Attributes:
        name: of the variable.
        way: how it comes into a pod.
        why: what it says, or why it does not come that way.
        key: in the ConfigMap `k8s_settings` or the Secret `k8s_credentials`.
        required: the pod does not start without the key; every other key may be left out.
        value: that the compiled file holds.
        reader: which library reads it, where it is not ours.
    """

    name: str
    way: Way
    why: str
    key: str = ""
    required: bool = False
    value: str = ""
    reader: str = "distillery"


def _setting(key: str, name: str, why: str, reader: str = "distillery", required: bool = False) -> Variable:
    return Variable(name, "config map", why, key, required, reader=reader)


def _secret(key: str, name: str, why: str, reader: str) -> Variable:
    return Variable(name, "secret", why, key, reader=reader)


_TABLE = (
    _setting("store", "DISTILLERY_STORE", "The store, s3://bucket/prefix.", required=True),
    _setting("allow_modules", "DISTILLERY_ALLOW_MODULES", "Modules of your own that may be imported; none without it."),
    _setting("cache_bytes", "DISTILLERY_CACHE_BYTES", "Limit of the read cache in the scratch volume; 8 GiB without it."),
    _setting("threads", "DISTILLERY_THREADS", "CPU threads of a step; without it as many as its CPU limit allows."),
    _setting("s3_endpoint_url", "S3_ENDPOINT_URL", "The S3 server; Amazon's without it."),
    _setting("s3_region", "AWS_DEFAULT_REGION", "Its region; us-east-1 without it.", "boto3"),
    _setting("s3_addressing", "DISTILLERY_S3_ADDRESSING", "path, virtual or auto; by the server's name without it."),
    _setting("s3_patience", "DISTILLERY_S3_PATIENCE", "Seconds for which a silent server is asked again; 10 without it."),
    _setting("s3_timeout", "DISTILLERY_S3_TIMEOUT", "Seconds that a server may be silent within one answer; 10 without it."),
    _setting("s3_max_attempts", "AWS_MAX_ATTEMPTS", "Attempts of one request; 5 without it."),
    _setting("s3_ca_bundle", "AWS_CA_BUNDLE", f"Certificates of the S3 server, such as {SETTINGS_MOUNT}/ca.crt; public ones.", "boto3"),
    _setting("mlflow_tracking_uri", "MLFLOW_TRACKING_URI", "The tracking server; without it each step writes JSON beside its outputs."),
    _setting("mlflow_experiment_name", "MLFLOW_EXPERIMENT_NAME", "The experiment; distillery without it."),
    _setting("mlflow_ca_bundle", "MLFLOW_TRACKING_SERVER_CERT_PATH", f"Certificates of MLflow, such as {SETTINGS_MOUNT}/ca.crt.", "mlflow"),
    _setting("mlflow_timeout", "MLFLOW_HTTP_REQUEST_TIMEOUT", "Seconds for an answer of MLflow; 10, in a registration 120, without it."),
    _setting("mlflow_max_retries", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "Attempts after the first; 1, in a registration 3, without it."),
    _setting("mlflow_backoff", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "How fast MLflow's pauses grow; 1 without it."),
    _secret("s3_access_key", "AWS_ACCESS_KEY_ID", "Without it boto3 looks further: a role of the service account.", "boto3"),
    _secret("s3_secret_key", "AWS_SECRET_ACCESS_KEY", "As the access key.", "boto3"),
    _secret("s3_session_token", "AWS_SESSION_TOKEN", "Only temporary credentials have one.", "boto3"),
    _secret("mlflow_username", "MLFLOW_TRACKING_USERNAME", "Only a server with basic auth asks.", "mlflow"),
    _secret("mlflow_password", "MLFLOW_TRACKING_PASSWORD", "As the user's name.", "mlflow"),
    _secret("mlflow_token", "MLFLOW_TRACKING_TOKEN", "Only a server with tokens asks.", "mlflow"),
    Variable("DISTILLERY_WORKDIR", "task", "The workspace, read cache and bundles below it.", value=f"{SCRATCH_MOUNT}/work"),
    Variable(
        "TMPDIR", "task", "Temporary files, on the volume with a limit and not in the container.", value=SCRATCH_MOUNT, reader="python"
    ),
    Variable("KFP_RUN_ID", "task", "Names the run: the pod's label, by the downward API."),
    Variable("KFP_POD_NAME", "platform", "Kubeflow sets it in every pod."),
    Variable("KUBERNETES_SERVICE_HOST", "platform", "Kubernetes sets it: this is a pod."),
    Variable("MLFLOW_RUN_ID", "platform", "Kubeflow's MLflow plugin sets it, where it is on."),
    Variable("MLFLOW_EXPERIMENT_ID", "platform", "As the run's."),
    Variable("DISTILLERY_IMAGE", "task", "The image that the pipeline was compiled for, for the run's record."),
    Variable("DISTILLERY_DEVICE", "nobody", "A step takes what its pod was given; the run's profile says what that is."),
    Variable("DISTILLERY_FOLDER_STORE", "nobody", "Allows a store that is lost with the pod: for commands that a person gives."),
    Variable("AWS_ENDPOINT_URL", "nobody", "Another name of S3_ENDPOINT_URL."),
    Variable("AWS_ENDPOINT_URL_S3", "nobody", "Another name of S3_ENDPOINT_URL."),
    Variable("AWS_REGION", "nobody", "Another name of AWS_DEFAULT_REGION."),
    Variable("MLFLOW_DISABLE_TELEMETRY", "nobody", "Steps set it themselves."),
    Variable("MLFLOW_LOGGING_LEVEL", "nobody", "Steps set it themselves."),
    Variable("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "nobody", "Steps set it themselves."),
)
VARIABLES = {row.name: row for row in _TABLE}
"""Rows by the variable's name."""


def keys_of(way: Way, required: bool = False) -> dict[str, str]:
    """Keys of the ConfigMap or the Secret, with the variables that they become.

    Args:
        way: `config map` or `secret`.
        required: those that a pod does not start without, or all others. The store is: by a mistyped ConfigMap a pod would work for
            nothing. The others have a default that is right somewhere: no MLflow, a service account's role in place of keys.
    """
    return {row.key: row.name for row in _TABLE if row.way == way and row.required == required}


def render() -> str:
    """The table as the guide shows it, in Markdown."""
    lines = ["| Variable | Comes by | Key | What |", "|---|---|---|---|"]
    for row in _TABLE:
        key = f"`{row.key}`" if row.key else f"`{row.value}`" if row.value else ""
        lines.append(f"| `{row.name}` | {row.way}{', required' * row.required} | {key} | {row.why} |")
    return "\n".join(lines)
