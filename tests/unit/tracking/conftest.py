"""An MLflow in a folder: sqlite and local artifacts, migrated once a session and copied for each test."""

import shutil
from pathlib import Path
from typing import Any

import pytest

DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_uri(_migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh tracking URI, also in the environment."""
    folder = tmp_path / "tracking server"
    folder.mkdir()
    uri = f"sqlite:///{shutil.copy(_migrated, folder)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def client(mlflow_uri: str) -> Any:
    """A client of its own on that URI, to look with."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow_uri)


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking URI where nobody listens, in the environment, and a client that does not insist."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    return DEAD
