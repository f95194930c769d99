"""Rules on what a cluster does with a task: each catches its planted breaks, and passes what we ship."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.lint import lint
from distillery_kfp.pipelines.resources import AMOUNTS, retry_window

Break = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {pipeline: compile_text(pipeline) for pipeline in ALL}


def task(spec: dict[str, Any], name: str) -> Any:
    return spec["root"]["dag"]["tasks"][name]


def parameter(spec: dict[str, Any], name: str) -> Any:
    return spec["root"]["inputDefinitions"]["parameters"][name]


def container(spec: dict[str, Any], step: str) -> Any:
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def settings_of(settings: dict[str, Any], step: str) -> Any:
    return settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]


def numeric(name: str, kind: str = "NUMBER_INTEGER") -> Break:
    return lambda spec, _: parameter(spec, name).update(parameterType=kind)


def constant_number(spec: dict[str, Any], _: dict[str, Any]) -> None:
    task(spec, "evaluate")["inputs"]["parameters"]["pipelinechannel--k8s_gpu_limit"] = {"runtimeValue": {"constant": 1.0}}


def from_an_output(spec: dict[str, Any], _: dict[str, Any]) -> None:
    made = {"taskOutputParameter": {"producerTask": "plan", "outputParameterKey": "evaluation"}}
    task(spec, "evaluate")["inputs"]["parameters"]["pipelinechannel--k8s_cpu_limit"] = made


def in_a_group(spec: dict[str, Any], _: dict[str, Any]) -> None:
    """Put the evaluation into a nested graph that is handed the number as an input of its own."""
    tasks = spec["root"]["dag"]["tasks"]
    inner = tasks.pop("evaluate")
    names = [source["componentInputParameter"] for source in inner["inputs"]["parameters"].values() if "componentInputParameter" in source]
    handed = {f"pipelinechannel--{name}": {"componentInputParameter": name} for name in names}
    for source in inner["inputs"]["parameters"].values():
        if "componentInputParameter" in source:
            source["componentInputParameter"] = f"pipelinechannel--{source['componentInputParameter']}"
    declared = {name: {"parameterType": "STRING"} for name in handed}
    spec["components"]["comp-group"] = {"dag": {"tasks": {"evaluate": inner}}, "inputDefinitions": {"parameters": declared}}
    tasks["group"] = {"componentRef": {"name": "comp-group"}, "inputs": {"parameters": handed}}
    numeric("k8s_gpu_limit")(spec, _)


BREAKS: dict[str, tuple[str, Break]] = {
    **{f"{name} is a number": ("resources_are_texts", numeric(name)) for name in AMOUNTS},
    "a fraction": ("resources_are_texts", numeric("k8s_cpu_limit", "NUMBER_DOUBLE")),
    "a number put in at compile time": ("resources_are_texts", constant_number),
    "an output that is no text": ("resources_are_texts", from_an_output),
    "a number behind a nested graph": ("resources_are_texts", in_a_group),
    "a promise that does not reach the step": (
        "promises_reach_steps",
        lambda spec, _: task(spec, "evaluate")["inputs"]["parameters"].pop("accelerators"),
    ),
    "another number than the cluster's": (
        "promises_reach_steps",
        lambda spec, _: task(spec, "evaluate")["inputs"]["parameters"].update(accelerators={"runtimeValue": {"constant": "1"}}),
    ),
    "a window of ten minutes": (
        "retries_have_their_time",
        lambda spec, _: task(spec, "evaluate")["retryPolicy"].update(backoffMaxDuration="600s"),
    ),
    "a window that is left out": (
        "retries_have_their_time",
        lambda spec, _: task(spec, "evaluate")["retryPolicy"].pop("backoffMaxDuration"),
    ),
    "a window of all but the last wait": (
        "retries_have_their_time",
        lambda spec, _: task(spec, "evaluate")["retryPolicy"].update(backoffMaxDuration=f"{3 * 14_400 + 60 + 119}s"),
    ),
    "a window for fewer retries": (
        "retries_have_their_time",
        lambda spec, _: task(spec, "evaluate")["retryPolicy"].update(maxRetryCount=20),
    ),
    "a window for a shorter limit": (
        "retries_have_their_time",
        lambda _, settings: settings_of(settings, "evaluate").update(activeDeadlineSeconds="345600"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("pipeline", ALL)
def test_catches(name: str, pipeline: str, texts: dict[str, str]) -> None:
    rule, plant = BREAKS[name]
    spec, settings = yaml.safe_load_all(texts[pipeline])
    plant(spec, settings)
    broken = lint(pipeline, yaml.safe_dump_all([spec, settings]))
    assert [line for line in broken if line.startswith(f"{rule}:")], broken


def test_a_window_covers_every_attempt_and_the_waits_between() -> None:
    assert retry_window(2, 14_400) == 3 * 14_400 + 60 + 120
    assert retry_window(0, 600) == 600


@pytest.mark.parametrize("pipeline", ALL)
def test_plan_is_tried_three_times(pipeline: str, texts: dict[str, str]) -> None:
    spec = next(iter(yaml.safe_load_all(texts[pipeline])))
    assert task(spec, "plan")["retryPolicy"]["maxRetryCount"] == 2
