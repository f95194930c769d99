"""Rules on what a cluster does with a task: each catches its planted breaks, and passes what we ship."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from distillery.placement.pools import PLACED
from distillery.step_table import PIPELINES
from distillery_kfp.pipelines.compile import compile_documents
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.lint import broken_rules
from distillery_kfp.pipelines.resources import retry_window

AMOUNTS = [name for name, kind in PLACED.items() if kind is str]
"""What the plan says of the resources of tasks; texts, all of them, because the backend reads a number as nothing."""
Break = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.fixture(scope="module")
def documents() -> dict[str, list[dict[str, Any]]]:
    return {pipeline: compile_documents(pipeline) for pipeline in ALL}


def task(spec: dict[str, Any], name: str) -> Any:
    return spec["root"]["dag"]["tasks"][name]


def output(spec: dict[str, Any], name: str) -> Any:
    return spec["components"]["comp-plan"]["outputDefinitions"]["parameters"][name]


def container(spec: dict[str, Any], step: str) -> Any:
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def settings_of(settings: dict[str, Any], step: str) -> Any:
    return settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]


def source_of(spec: dict[str, Any], name: str) -> Any:
    """Where a channel of the evaluation comes from."""
    return task(spec, "evaluate")["inputs"]["parameters"][f"pipelinechannel--plan-{name}"]["taskOutputParameter"]


def numeric(name: str, kind: str = "NUMBER_INTEGER") -> Break:
    return lambda spec, _: output(spec, name).update(parameterType=kind)


def constant_number(spec: dict[str, Any], _: dict[str, Any]) -> None:
    task(spec, "evaluate")["inputs"]["parameters"]["pipelinechannel--plan-medium_accelerators"] = {"runtimeValue": {"constant": 1.0}}


def from_an_output(spec: dict[str, Any], _: dict[str, Any]) -> None:
    made = {"taskOutputParameter": {"producerTask": "plan", "outputParameterKey": "evaluation"}}
    task(spec, "evaluate")["inputs"]["parameters"]["pipelinechannel--plan-medium_cpu_limit"] = made


def in_a_group(spec: dict[str, Any], _: dict[str, Any]) -> None:
    """Put the evaluation into a nested graph that is handed the number as an input of its own."""
    tasks = spec["root"]["dag"]["tasks"]
    inner = tasks.pop("evaluate")
    handed = {f"pipelinechannel--{name}": source for name, source in inner["inputs"]["parameters"].items()}
    inner["inputs"]["parameters"] = {
        name: {"componentInputParameter": f"pipelinechannel--{name}"} for name in inner["inputs"]["parameters"]
    }
    declared = {name: {"parameterType": "STRING"} for name in handed}
    spec["components"]["comp-group"] = {"dag": {"tasks": {"evaluate": inner}}, "inputDefinitions": {"parameters": declared}}
    tasks["group"] = {"componentRef": {"name": "comp-group"}, "inputs": {"parameters": handed}}
    numeric("medium_accelerators")(spec, _)


def drop(step: str, key: str, variable: str) -> Break:
    """Leave one variable out of the references of one kind."""

    def plant(_: dict[str, Any], settings: dict[str, Any]) -> None:
        for reference in settings_of(settings, step)[key]:
            reference["keyToEnv"] = [pair for pair in reference["keyToEnv"] if pair["envVar"] != variable]

    return plant


def second_store(_: dict[str, Any], settings: dict[str, Any]) -> None:
    references = settings_of(settings, "plan")["configMapAsEnv"]
    references.append({**references[0], "optional": True})


def in_memory(_: dict[str, Any], settings: dict[str, Any]) -> None:
    settings_of(settings, "plan")["emptyDirMounts"][0]["medium"] = "Memory"


def set_variable(name: str, value: str) -> Break:
    def plant(spec: dict[str, Any], _: dict[str, Any]) -> None:
        rows = container(spec, "plan")["env"]
        container(spec, "plan")["env"] = [{**row, "value": value} if row["name"] == name else row for row in rows]

    return plant


BREAKS: dict[str, tuple[str, Break]] = {
    **{f"{name} is a number": ("resources_are_texts", numeric(name)) for name in AMOUNTS},
    "a fraction": ("resources_are_texts", numeric("medium_cpu_limit", "NUMBER_DOUBLE")),
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
    "an amount of another size": (
        "places_come_from_the_plan",
        lambda spec, _: source_of(spec, "medium_cpu_limit").update(outputParameterKey="large_cpu_limit"),
    ),
    "an amount that no profile changes": (
        "places_come_from_the_plan",
        lambda spec, _: container(spec, "evaluate")["resources"].update(resourceCpuLimit="4"),
    ),
    "an accelerator that no profile changes": (
        "places_come_from_the_plan",
        lambda spec, _: container(spec, "evaluate")["resources"]["accelerator"].update(resourceType="nvidia.com/gpu"),
    ),
    "any node": ("places_come_from_the_plan", lambda _, settings: settings_of(settings, "evaluate").pop("nodeSelector")),
    "nodes without taints": ("places_come_from_the_plan", lambda _, settings: settings_of(settings, "register").pop("tolerations")),
    "a plan that waits for itself": (
        "places_come_from_the_plan",
        lambda spec, _: container(spec, "plan")["resources"].update(resourceCpuLimit="{{$.inputs.parameters['pipelinechannel--x']}}"),
    ),
    "the user of the image": ("fixed_as_chosen", lambda _, settings: settings_of(settings, "evaluate").pop("securityContext")),
    "root": ("fixed_as_chosen", lambda _, settings: settings_of(settings, "plan")["securityContext"].update(runAsUser="0")),
    "a queue that nobody chose": (
        "fixed_as_chosen",
        lambda _, settings: settings_of(settings, "evaluate").update(podMetadata={"labels": {"kueue.x-k8s.io/queue-name": "x"}}),
    ),
    "an affinity that nobody chose": (
        "fixed_as_chosen",
        lambda _, settings: settings_of(settings, "plan").update(nodeAffinity=[{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]),
    ),
    "another plan than the profiles fix": (
        "fixed_as_chosen",
        lambda spec, _: container(spec, "plan")["resources"].update(resourceMemoryLimit="4Gi"),
    ),
    "nodes of the plan that no profile fixes": (
        "fixed_as_chosen",
        lambda _, settings: settings_of(settings, "plan").update(nodeSelector={"labels": {"pool": "x"}}),
    ),
    "taints of the plan that no profile fixes": (
        "fixed_as_chosen",
        lambda _, settings: settings_of(settings, "plan").update(tolerations=[{"operator": "Exists"}]),
    ),
    "a plan that does not know the profiles": (
        "fixed_as_chosen",
        lambda spec, _: task(spec, "plan")["inputs"]["parameters"]["profiles"]["runtimeValue"].update(constant={"x": {}}),
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
    **{
        f"no {bound} of {step}": ("every_task_is_bounded", lambda spec, _, s=step, b=bound: container(spec, s)["resources"].pop(b))
        for step in ("plan", "evaluate")
        for bound in ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit")
    },
    "no resources at all": ("every_task_is_bounded", lambda spec, _: container(spec, "register").pop("resources")),
    "a volume without a limit": (
        "every_task_is_bounded",
        lambda _, settings: settings_of(settings, "plan")["emptyDirMounts"][0].pop("sizeLimit"),
    ),
    "shared memory without a limit": (
        "every_task_is_bounded",
        lambda _, settings: [mount.pop("sizeLimit") for mount in settings_of(settings, "evaluate")["emptyDirMounts"]],
    ),
    "no scratch volume": ("scratch_is_a_volume", lambda _, settings: settings_of(settings, "plan").pop("emptyDirMounts")),
    "scratch in memory": ("scratch_is_a_volume", in_memory),
    "a workspace in the container": ("scratch_is_a_volume", set_variable("DISTILLERY_WORKDIR", ".distillery")),
    "a workspace beside the volume": ("scratch_is_a_volume", set_variable("DISTILLERY_WORKDIR", "/scratch-2/work")),
    "temporary files in the container": ("scratch_is_a_volume", lambda spec, _: container(spec, "plan").pop("env")),
    "a store that may be missing": (
        "store_is_required",
        lambda _, settings: settings_of(settings, "evaluate")["configMapAsEnv"][0].update(optional=True),
    ),
    "no store": ("store_is_required", drop("plan", "configMapAsEnv", "DISTILLERY_STORE")),
    "a store named twice": ("store_is_required", second_store),
    **{
        f"{variable} does not arrive": ("variables_arrive", drop("evaluate", key, variable))
        for key, variable in (
            ("configMapAsEnv", "AWS_CA_BUNDLE"),
            ("configMapAsEnv", "MLFLOW_EXPERIMENT_NAME"),
            ("configMapAsEnv", "DISTILLERY_S3_ADDRESSING"),
            ("configMapAsEnv", "DISTILLERY_CACHE_BYTES"),
            ("configMapAsEnv", "DISTILLERY_ALLOW_MODULES"),
            ("secretAsEnv", "AWS_SESSION_TOKEN"),
        )
    },
    "another workspace than the table's": ("variables_arrive", set_variable("DISTILLERY_WORKDIR", "/scratch/elsewhere")),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("pipeline", [name for name in ALL if "evaluate" in PIPELINES[name].steps])
def test_catches(name: str, pipeline: str, documents: dict[str, list[dict[str, Any]]]) -> None:
    rule, plant = BREAKS[name]
    spec, settings = deepcopy(documents[pipeline])
    plant(spec, settings)
    broken = broken_rules(Compiled.of(pipeline, json.dumps([spec, settings]), spec, settings))
    assert [line for line in broken if line.startswith(f"{rule}:")], broken


def test_a_window_covers_every_attempt_and_the_waits_between() -> None:
    assert retry_window(2, 14_400) == 3 * 14_400 + 60 + 120
    assert retry_window(0, 600) == 600


@pytest.mark.parametrize("pipeline", ALL)
def test_plan_is_tried_three_times(pipeline: str, documents: dict[str, list[dict[str, Any]]]) -> None:
    assert task(documents[pipeline][0], "plan")["retryPolicy"]["maxRetryCount"] == 2
