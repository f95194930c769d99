"""A step that was promised an accelerator and finds none says so before it reads or writes anything."""

from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distillery.api.running import run_step
from distillery.errors import ConfigError
from distillery.step_table import STEPS
from distillery.workbench.accelerators import check_promise
from distillery_kfp.pipelines.metadata import component

ACCELERATED = [name for name, row in STEPS.items() if row.accelerated]
PROMISE = r"^accelerators = '1' promises an accelerator, but torch sees none in this container"


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DISTILLERY_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("step", ACCELERATED)
def test_every_step_on_accelerators_refuses_before_it_reads_anything(step: str, tmp_path: Path) -> None:
    nowhere = dict.fromkeys((*STEPS[step].reads, *STEPS[step].writes), Path("nowhere"))
    with pytest.raises(ConfigError, match=PROMISE):
        run_step(step, {}, nowhere, {"teacher_uri": "nowhere", "accelerators": "1"})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("step", ACCELERATED)
def test_every_component_hands_its_promise_to_its_step(step: str, tmp_path: Path) -> None:
    shim = component(step).python_func
    artifact = SimpleNamespace(path=str(tmp_path / "nowhere"), metadata={})
    given = {name: artifact if "dsl." in str(parameter) else "nowhere" for name, parameter in signature(shim).parameters.items()}
    with pytest.raises(ConfigError, match=PROMISE):
        shim(**{**given, "section": {}, "accelerators": "1"})


def test_there_are_such_steps() -> None:
    assert len(ACCELERATED) == 6


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
    with pytest.raises(ConfigError, match="would leave idle: choose the profile cpu"):
        check_promise("1")


def test_a_promise_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="accelerators = 'one' is not allowed: give the number of accelerators"):
        check_promise("one")
