"""What every test may rely on: fixed seeds, one thread, and an environment without Distillery's or MLflow's variables."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
import torch
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # what passes here passes there, on a slow machine too
settings.load_profile("same")


gc.disable()  # until all tests are collected: nothing that is imported is garbage


def pytest_collection_finish() -> None:
    """Let no collection look at torch's and the tests' own modules again: each look takes a third of a second."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked soak out, also beside an `-m` of the user's, unless `-m` speaks of them or they are named by their id."""
    if "soak" in config.option.markexpr:
        return
    named = tuple(argument.partition("::")[2] for argument in config.args if "::" in argument)
    left_out = [item for item in items if item.get_closest_marker("soak") and not item.nodeid.partition("::")[2].startswith(named)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_configure() -> None:
    """Let SIGTERM and SIGINT end the suite: Python's own handlers would leave them to the step under test, as one failed test."""
    with suppress(ValueError):  # not the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


ROOT = Path(__file__).parents[1]
_known = set(os.listdir(ROOT)) | set((ROOT / ".gitignore").read_text().split()) - {".distillery", "distillery-store"}
"""What stands in the repository's folder, or may come there by tools; the two that are left out come from runs."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Notice what a test, or what was set up for it, leaves there, such as a workspace beside a store that was named relatively."""
    yield
    left = sorted(set(os.listdir(ROOT)) - _known)
    _known.update(left)
    assert not left, f"{left} came into the repository's folder by the time this test was over: let it work in tmp_path"


@pytest.fixture
def python_handlers() -> Iterator[None]:
    """The signal handlers that Python starts with, which a step would replace; those of the suite are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DISTILLERY_", "MLFLOW_", "KFP_", "AWS_", "S3_", "KUBERNETES_")) and name != "DISTILLERY_REQUIRE_INTEGRATION":
            monkeypatch.delenv(name)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "toy_networks,forty_networks")
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
