"""A step that was promised an accelerator and finds none says so before it reads or writes anything."""

from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import torch

from distillery.errors import ConfigError
from distillery.workbench.accelerators import check_promise
from distillery_kfp.pipelines.metadata import STAGES, metadata

STEPS = [name for name in STAGES if metadata(name).gpu != "none"]


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DISTILLERY_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_on_accelerators_refuses_before_it_reads_anything(step: str, tmp_path: Path) -> None:
    run = import_module(f"distillery.steps.{step}").run
    needed = [name for name, parameter in signature(run).parameters.items() if parameter.default is parameter.empty]
    with pytest.raises(ConfigError, match=r"^k8s_gpu_limit = '1' promises an accelerator, but torch sees none in this container"):
        run(*[{} if name == "section" else Path("nowhere") for name in needed], accelerators="1")
    assert not (tmp_path / "store").exists()


def test_there_are_such_steps() -> None:
    assert len(STEPS) == 5


@pytest.mark.parametrize("device", ["", "auto", "cpu", "cuda"])
def test_no_promise_leaves_the_device_alone(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    check_promise("0")


@pytest.mark.parametrize("device", ["", "auto", "cuda", "cuda:0"])
def test_a_promise_that_is_kept(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    check_promise("2")


def test_an_accelerator_is_not_left_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
    with pytest.raises(ConfigError, match="would leave idle: set k8s_gpu_limit to 0"):
        check_promise("1")


def test_a_promise_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="k8s_gpu_limit = 'one' is not allowed"):
        check_promise("one")
