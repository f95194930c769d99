"""How long MLflow is waited for, and what its client is told of that; imports no mlflow."""

import os

IMPORT_SECONDS, ARTIFACT_SECONDS, CLOSING_SECONDS = 300.0, 120.0, 10.0

_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
# bars are drawn over our lines once tqdm is there, which timm brings along
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


def opening_seconds(uri: str) -> float:
    """How long a run may take to open: a server must answer, but a fresh sqlite file is migrated first, slowly on a busy machine."""
    return 300.0 if uri.startswith("sqlite:") else 30.0


def set_impatience() -> None:
    """Tell the client how little it may wait and say, where the user has not; before it is imported."""
    for name, value in {**_IMPATIENT, **_QUIET}.items():
        os.environ.setdefault(name, value)


def patience() -> dict[str, str]:
    """What a registration waits for, where the user has not said how long."""
    return {name: value for name, value in _PATIENT.items() if os.environ.get(name) in (None, _IMPATIENT.get(name))}
