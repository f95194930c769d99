"""What every test may rely on: fixed seeds, one thread, and an environment without Distillery's or MLflow's variables."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # what passes here passes there, on a slow machine too
settings.load_profile("same")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked soak out, also beside an `-m` of the user's, unless `-m` speaks of them or they are named by their id."""
    if "soak" in config.option.markexpr:
        return
    named = tuple(argument.partition("::")[2] for argument in config.args if "::" in argument)
    left_out = [item for item in items if item.get_closest_marker("soak") and not item.nodeid.partition("::")[2].startswith(named)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DISTILLERY_", "MLFLOW_", "KFP_", "AWS_", "S3_")) and name != "DISTILLERY_REQUIRE_INTEGRATION":
            monkeypatch.delenv(name)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
