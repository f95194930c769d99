"""What every test may rely on: fixed seeds, one thread, and an environment without Distillery's or MLflow's variables."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # what passes here passes there, on a slow machine too
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DISTILLERY_", "MLFLOW_", "KFP_", "AWS_", "S3_")) and name != "DISTILLERY_REQUIRE_INTEGRATION":
            monkeypatch.delenv(name)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
