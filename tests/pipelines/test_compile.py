"""Compiled pipelines: the goldens, the same bytes under every hash seed, and a lint that catches planted breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.recipes.loader import recipe_names
from distillery.recipes.parameters import parameters_of
from distillery.step_table import PIPELINES
from distillery_kfp.pipelines.compile import compile_all, compile_text
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.form import ALL, CLUSTER, fields, literals
from distillery_kfp.pipelines.lint import broken_rules, lint

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {pipeline: compile_text(pipeline) for pipeline in ALL}


@pytest.fixture(scope="module")
def documents(texts: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    return {pipeline: list(yaml.safe_load_all(text)) for pipeline, text in texts.items()}


@pytest.mark.parametrize("pipeline", ALL)
def test_equals_its_golden(pipeline: str, texts: dict[str, str]) -> None:
    assert texts[pipeline] == (GOLDEN / f"{pipeline}.yaml").read_text(), "run `make goldens` if the change is meant"


@pytest.mark.parametrize("seed", ["1", "4711"])
def test_same_bytes_under_every_hash_seed(seed: str, tmp_path: Path, texts: dict[str, str]) -> None:
    command = [sys.executable, "-m", "distillery_kfp.pipelines.cli.app", "compile", "--out", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
    assert {path.stem: path.read_text() for path in tmp_path.iterdir()} == texts


def test_compile_all_names_what_it_wrote(tmp_path: Path) -> None:
    assert sorted(path.name for path in compile_all(tmp_path / "new")) == sorted(f"{pipeline}.yaml" for pipeline in ALL)


@pytest.mark.parametrize("pipeline", ALL)
def test_parameters_are_those_of_the_plan_step(pipeline: str, texts: dict[str, str]) -> None:
    parameters = next(iter(yaml.safe_load_all(texts[pipeline])))["root"]["inputDefinitions"]["parameters"]
    known = fields(pipeline)
    assert set(parameters) == set(known) | set(CLUSTER)
    given = {name: row.default for name, row in known.items() if not row.required}
    assert {name: parameters[name]["defaultValue"] for name in given} == given
    assert set(known) <= set(parameters_of(pipeline))
    assert parameters["run_recipe"]["literals"] == list(literals(pipeline)["run_recipe"])


def test_every_recipe_belongs_to_one_pipeline() -> None:
    offered = {pipeline: list(literals(pipeline)["run_recipe"]) for pipeline in ALL}
    assert all(PIPELINES[pipeline].recipe in offered[pipeline] for pipeline in ALL)
    every = [recipe for recipes in offered.values() for recipe in recipes]
    assert sorted(every) == sorted(recipe_names())


@pytest.mark.parametrize("pipeline", ALL)
def test_steps_are_those_shown(pipeline: str, texts: dict[str, str]) -> None:
    compiled = Compiled.parse(pipeline, texts[pipeline])
    assert sorted(filter(None, (compiled.step(task) for _, _, task in compiled.tasks()))) == sorted(PIPELINES[pipeline].steps)


def root_tasks(spec: dict[str, Any]) -> dict[str, Any]:
    tasks: dict[str, Any] = spec["root"]["dag"]["tasks"]
    return tasks


def executors(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["deploymentSpec"]["executors"]
    return found


def platform(settings: dict[str, Any], step: str) -> dict[str, Any]:
    found: dict[str, Any] = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]
    return found


def medium_of(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What stands for the step that passes images through networks once, of which each pipeline has one."""
    chosen: dict[str, Any]
    (chosen,) = (found[name] for step in ("evaluate", "extract-class-statistics") if (name := f"{prefix}{step}") in found)
    return chosen


def medium_task(spec: dict[str, Any]) -> dict[str, Any]:
    return medium_of(root_tasks(spec))


def medium_executor(spec: dict[str, Any]) -> dict[str, Any]:
    return medium_of(executors(spec), "exec-")


def medium_platform(settings: dict[str, Any]) -> dict[str, Any]:
    return medium_of(settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"], "exec-")


def nest_condition(spec: dict[str, Any]) -> None:
    root_tasks(spec)["loop"] = {"componentRef": {"name": "comp-loop"}, "parameterIterator": {"items": {"raw": "[1]"}}}
    inner = {"componentRef": {"name": "comp-plan"}, "triggerPolicy": {"condition": "true"}, "cachingOptions": {}}
    spec["components"]["comp-loop"] = {"dag": {"tasks": {"if": inner}}}


def loop_over_named_output(spec: dict[str, Any]) -> None:
    source = {"taskOutputParameter": {"producerTask": "plan", "outputParameterKey": "shards"}}
    loop = {"items": {"inputParameter": "items"}}
    root_tasks(spec)["loop"] = {
        "componentRef": {"name": "comp-loop"},
        "parameterIterator": loop,
        "inputs": {"parameters": {"items": source}},
    }
    spec["components"]["comp-loop"] = {"dag": {"tasks": {}}}


Break = Callable[[dict[str, Any], dict[str, Any]], Any]


def _first_kept(spec: Any) -> str:
    """A task whose outputs are kept: the first that a pipeline has beside its plan."""
    return next(name for name in ("extract-statistics", "open-set") if name in root_tasks(spec))


BREAKS: dict[str, tuple[str, Break]] = {
    "input of nobody": (
        "inputs_exist",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"].pop("teacher_uri"),
    ),
    "resource channel not taken": (
        "inputs_exist",
        lambda spec, _: medium_task(spec)["inputs"]["parameters"].pop("pipelinechannel--plan-medium_accelerators"),
    ),
    "secret name of nobody": (
        "platform_inputs_exist",
        lambda _, settings: platform(settings, "plan")["secretAsEnv"][0]["secretNameParameter"].update(componentInputParameter="x"),
    ),
    "an output of a task elsewhere": (
        "platform_inputs_exist",
        lambda _, settings: medium_platform(settings)["nodeSelector"]["nodeSelectorJson"]["taskOutputParameter"].update(producerTask="x"),
    ),
    "moving image": (
        "images_are_listed",
        lambda spec, _: executors(spec)["exec-plan"]["container"].update(image="registry.example.com/distillery/runtime-cpu-python:latest"),
    ),
    "an image without a host": (
        "images_are_listed",
        lambda spec, _: executors(spec)["exec-plan"]["container"].update(image="distillery/runtime-cpu-python:0.1.0"),
    ),
    "another host than the table's": (
        "images_are_listed",
        lambda spec, _: executors(spec)["exec-plan"]["container"].update(image="example.net/distillery/runtime-cpu-python:0.1.0"),
    ),
    "a task that learns another image": (
        "images_are_listed",
        lambda spec, _: executors(spec)["exec-plan"]["container"]["env"][-1].update(value="registry.example.com/other:1.0.0"),
    ),
    "the other image of the table": (
        "images_are_listed",
        lambda spec, _: executors(spec)["exec-plan"]["container"].update(image=medium_executor(spec)["container"]["image"]),
    ),
    "a pull secret that nobody chose": (
        "fixed_as_chosen",
        lambda _, settings: platform(settings, "plan").update(imagePullSecret=[{"secretName": "x"}]),
    ),
    "no default": (
        "parameters_read_well",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_seed"].pop("defaultValue"),
    ),
    "a required field that may be left out": (
        "parameters_read_well",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["teacher_uri"].update(defaultValue="", isOptional=True),
    ),
    "a required field that is optional": (
        "parameters_read_well",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["teacher_uri"].update(isOptional=True),
    ),
    **{
        f"{name} opens as {value!r}": (
            "objects_are_named",
            lambda spec, _, n=name, v=value: spec["root"]["inputDefinitions"]["parameters"][n].update(defaultValue=v),
        )
        for name, value in (("k8s_credentials", ""), ("k8s_credentials", "My Secret"), ("k8s_settings", ""), ("k8s_settings", "a.b"))
    },
    "a secret that no rule looks at": (
        "objects_are_named",
        lambda _, settings: platform(settings, "plan")["secretAsEnv"][0]["secretNameParameter"].update(componentInputParameter="run_salt"),
    ),
    "no prefix": (
        "parameters_read_well",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"].update(speed={"defaultValue": 1, "description": "x"}),
    ),
    "huge default": (
        "parameters_read_well",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_salt"].update(defaultValue="x" * 10_000),
    ),
    "condition below a loop": ("loops_and_conditions", lambda spec, _: nest_condition(spec)),
    "loop over a named output": ("loops_and_conditions", lambda spec, _: loop_over_named_output(spec)),
    "no shared memory": ("accelerated_tasks_survive", lambda _, settings: medium_platform(settings).pop("emptyDirMounts")),
    "no retry": ("accelerated_tasks_survive", lambda spec, _: medium_task(spec).pop("retryPolicy")),
    "no time limit": ("accelerated_tasks_survive", lambda _, settings: medium_platform(settings).pop("activeDeadlineSeconds")),
    "too large": ("stays_small", lambda spec, _: spec.update(ballast="x" * 150_000)),
    "plan is cached": ("caching_as_declared", lambda spec, _: root_tasks(spec)["plan"].update(cachingOptions={"enableCache": True})),
    "training is not cached": ("caching_as_declared", lambda spec, _: root_tasks(spec)[_first_kept(spec)].pop("cachingOptions")),
    "a secret's value": (
        "no_secret_values",
        lambda spec, _: executors(spec)["exec-plan"]["container"].update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}]),
    ),
    "no choices": ("choices_are_literals", lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_recipe"].pop("literals")),
    "a Secret of any name": (
        "choices_are_literals",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["k8s_credentials"].pop("literals"),
    ),
    "a ConfigMap without a name": (
        "choices_are_literals",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["k8s_settings"].update(literals=["distillery-settings", ""]),
    ),
    "a profile of any name": (
        "choices_are_literals",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_profile"].pop("literals"),
    ),
    "a profile that does not agree": (
        "choices_are_literals",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_profile"]["literals"].append("team"),
    ),
    "default is no choice": (
        "choices_are_literals",
        lambda spec, _: spec["root"]["inputDefinitions"]["parameters"]["run_recipe"].update(defaultValue="dafl/digits"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("pipeline", ALL)
def test_lint_catches(name: str, pipeline: str, documents: dict[str, list[dict[str, Any]]]) -> None:
    rule, plant = BREAKS[name]
    spec, settings = deepcopy(documents[pipeline])
    plant(spec, settings)
    broken = broken_rules(Compiled.of(pipeline, json.dumps([spec, settings]), spec, settings))
    assert [line for line in broken if line.startswith(f"{rule}:")], broken


@pytest.mark.parametrize("pipeline", ALL)
def test_lint_accepts_what_we_ship(pipeline: str, texts: dict[str, str]) -> None:
    assert lint(pipeline, texts[pipeline]) == []
