"""Pods as a cluster is asked for them: valid in every minor that we name, within policies, on the accelerator that the profile promises."""

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.placement.profiles import PROFILES, NodeProfile, find_profile, profile_names
from distillery.step_table import STEPS
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.deployment import Deployment
from distillery_kfp.pipelines.form import ALL, required
from distillery_kfp.pipelines.metadata import component_of, metadata
from distillery_kfp.pipelines.pods import read_package, render_pods

MINORS = ("1.32", "1.34", "1.36")
FIXED = """
fixed:
  plan: {cpu_request: "2", cpu_limit: "3", memory_request: 1Gi, memory_limit: 3Gi, node_selector: {pool: cheap},
    tolerations: [{key: spot, value: "yes", effect: NoExecute, tolerationSeconds: 300}]}
  user: 2000
  queue: gpus
  priority: low
  pull_secrets: [keys]
  affinity: {large: [{key: zone, operator: In, values: [a, b]}]}
"""
TEAM = NodeProfile.parse(yaml.safe_load((PROFILES / "gke-l4.yaml").read_text() + FIXED), "team")


@cache
def package(pipeline: str, own: bool = False) -> Compiled:
    text = compile_text(pipeline, Deployment(profiles={"team": TEAM}) if own else None)
    return Compiled.of(pipeline, text, *yaml.safe_load_all(text))


@cache
def schema(filename: str, version: str) -> Any:
    """The validator reads a megabyte of schemas anew for every object; here once."""
    return READ(filename, version)


READ = kubernetes_validate.utils.schema_contents


@pytest.fixture(autouse=True)
def _schemas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", schema)


def form(pipeline: str, **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(required(pipeline), "s3://models/there"), **more}


def pods_by_step(profile: str = "nvidia", **more: Any) -> dict[str, dict[str, Any]]:
    """One pod of every step, whichever pipeline has it."""
    found: dict[str, dict[str, Any]] = {}
    for pipeline in ALL:
        for pod in render_pods(package(pipeline), form(pipeline, run_profile=profile, **more)):
            found.setdefault(component_of(pod["metadata"]["name"]), pod)
    return found


def main_of(pod: dict[str, Any]) -> Any:
    (container,) = pod["spec"]["containers"]
    return container


def every_pod() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for profile in profile_names():
        for step, pod in pods_by_step(profile).items():
            yield profile, step, pod
    for pod in render_pods(package(ALL[0], own=True), form(ALL[0], run_profile="team")):
        yield "team", component_of(pod["metadata"]["name"]), pod


@pytest.mark.parametrize("minor", MINORS)
def test_kubernetes_takes_every_pod_of_every_profile(minor: str) -> None:
    seen = set()
    for profile, step, pod in every_pod():
        assert kubernetes_validate.validate(pod, minor, strict=True) == minor
        seen.add((profile, step))
    assert seen >= {(profile, step) for profile in profile_names() for step in STEPS}


@pytest.mark.parametrize(
    "plant",
    [
        lambda pod: pod["spec"].update(nodeSelectors={}),
        lambda pod: pod["spec"].update(nodeSelector={"pool": 1}),
        lambda pod: main_of(pod)["resources"].update(limit={}),
        lambda pod: pod["spec"].update(tolerations={"key": "x"}),
        lambda pod: main_of(pod)["securityContext"].update(runAsUser="2000"),
        lambda pod: pod["spec"].update(activeDeadlineSeconds="60"),
        lambda pod: main_of(pod).pop("name"),
    ],
)
def test_the_validator_refuses_what_is_wrong(plant: Any) -> None:
    pod = deepcopy(pods_by_step()["evaluate"])
    plant(pod)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, MINORS[0], strict=True)


def test_policies() -> None:
    for profile, step, pod in every_pod():
        main, where = main_of(pod), f"{step} under {profile}"
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(main["resources"][bound]), where
        security = main["securityContext"]
        assert isinstance(security["runAsUser"], int), where
        assert security["runAsUser"] > 0, where
        assert security["runAsGroup"] == 0, "images leave their folders writable to this group alone"
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert security["seccompProfile"] == pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert "privileged" not in security, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"]), where
        assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume], where
        own = [volume["emptyDir"] for volume in pod["spec"]["volumes"] if volume["name"] in ("distillery-scratch", "dshm")]
        assert len(own) == 1 + STEPS[step].accelerated, where
        assert all(volume["sizeLimit"] for volume in own), where
        names = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert len(names) == len(set(names)), where
        assert {mount["name"] for mount in main["volumeMounts"]} == set(names), where
        assert pod["spec"]["activeDeadlineSeconds"] == metadata(step).timeout_seconds, where


@pytest.mark.parametrize("profile", profile_names())
def test_the_pod_holds_the_accelerator_of_its_profile_and_stands_on_its_nodes(profile: str) -> None:
    chosen = find_profile(profile)
    for step, pod in pods_by_step(profile).items():
        if step == "plan":
            continue
        pool = getattr(chosen, metadata(step).size)
        limits, values = main_of(pod)["resources"]["limits"], pool.values()
        held = {name: number for name, number in limits.items() if name not in ("cpu", "memory")}
        promised = STEPS[step].accelerated and profile != "cpu"
        assert held == ({pool.accelerator: "1"} if promised else {})
        assert (limits["cpu"], limits["memory"]) == (pool.cpu_limit, pool.memory_limit)
        assert main_of(pod)["resources"]["requests"] == {"cpu": pool.cpu_request, "memory": pool.memory_request}
        assert pod["spec"].get("nodeSelector", {}) == values["node_selector"]
        assert pod["spec"].get("tolerations", []) == values["tolerations"]
    assert {name for name in profile_names() if find_profile(name).large.node_selector} == {"gke-l4", "eks-a10", "aks-a100"}


def test_a_run_changes_what_its_pods_ask_for() -> None:
    changed = {
        "large.memory_limit": "64Gi",
        "medium.accelerators": "0",
        "small.tolerations": [{"key": "spot", "effect": "NoExecute", "tolerationSeconds": 60}],
        "large.node_selector": {"pool": "x"},
    }
    pods = pods_by_step("gke-l4", k8s_overrides=changed)
    assert main_of(pods["train_student"])["resources"]["limits"]["memory"] == "64Gi"
    assert pods["train_student"]["spec"]["nodeSelector"] == {"pool": "x"}
    assert "nvidia.com/gpu" in main_of(pods["train_student"])["resources"]["limits"]
    assert set(main_of(pods["evaluate"])["resources"]["limits"]) == {"cpu", "memory"}
    assert pods["register"]["spec"]["tolerations"] == [{"key": "spot", "effect": "NoExecute", "tolerationSeconds": 60}]
    for pod in pods.values():
        kubernetes_validate.validate(pod, MINORS[-1], strict=True)


def test_what_a_profile_fixes_reaches_every_pod() -> None:
    pods = {pod["metadata"]["name"]: pod for pod in render_pods(package(ALL[0], own=True), form(ALL[0]))}
    assert "train-generator" in pods
    for name, pod in pods.items():
        assert pod["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "low"}
        assert pod["spec"]["imagePullSecrets"] == [{"name": "keys"}]
        assert main_of(pod)["securityContext"]["runAsUser"] == 2000
        assert ("affinity" in pod["spec"]) == (metadata(component_of(name)).size == "large")
    plan = pods["plan"]["spec"]
    assert plan["nodeSelector"] == {"pool": "cheap"}
    assert plan["tolerations"] == [{"key": "spot", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 300}]
    assert main_of(pods["plan"])["resources"] == {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "3", "memory": "3Gi"}}


def altered(pipeline: str, plant: Any) -> Compiled:
    compiled = package(pipeline)
    spec, platform = deepcopy(compiled.spec), deepcopy(compiled.platform)
    plant(spec["root"]["dag"]["tasks"]["evaluate"]["inputs"]["parameters"], platform["exec-evaluate"])
    return replace(compiled, spec=spec, platform=platform)


def evaluation(compiled: Compiled) -> dict[str, Any]:
    return next(pod for pod in render_pods(compiled, form(compiled.pipeline)) if pod["metadata"]["name"] == "evaluate")


def constant(value: Any) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


@pytest.mark.parametrize("number", [1, 1.0, None, ""])
def test_the_driver_reads_a_number_of_accelerators_that_is_no_text_as_none(number: Any) -> None:
    """What this project once did: the pod gets no accelerator, and nobody says so."""
    pod = evaluation(altered(ALL[0], lambda inputs, _: inputs.update({"pipelinechannel--plan-medium_accelerators": constant(number)})))
    assert set(main_of(pod)["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("amount", [8, "", "a lot"])
def test_the_driver_fails_at_an_amount_that_is_none(amount: Any) -> None:
    broken = altered(ALL[0], lambda inputs, _: inputs.update({"pipelinechannel--plan-medium_memory_limit": constant(amount)}))
    with pytest.raises(ConfigError, match="^The task evaluate would ask for memory = '.*', at which the driver fails"):
        evaluation(broken)


@pytest.mark.parametrize("nothing", [None, {}])
def test_nulls_are_skipped_and_empty_json_says_nothing(nothing: Any) -> None:
    def plant(_: Any, platform: dict[str, Any]) -> None:
        platform["nodeSelector"] = {"nodeSelectorJson": constant(nothing)}
        platform["tolerations"] = [{"tolerationJson": constant(each)} for each in (nothing, [], {"key": "a"}, [{"key": "b"}, {"key": "c"}])]
        platform["secretAsEnv"][0]["secretNameParameter"] = constant(None)
        platform["imagePullSecret"] = [{"secretNameParameter": constant(None)}, {"secretNameParameter": constant("keys")}]

    pod = evaluation(altered(ALL[0], plant))
    assert "nodeSelector" not in pod["spec"]
    assert [each["key"] for each in pod["spec"]["tolerations"]] == ["a", "b", "c"], "one and lists of them are put together"
    assert not [each for each in main_of(pod)["env"] if "secretKeyRef" in each.get("valueFrom", {})]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "keys"}]
    kubernetes_validate.validate(pod, MINORS[0], strict=True)


def test_a_value_that_only_a_run_can_tell() -> None:
    told = {"taskOutputParameter": {"producerTask": "plan", "outputParameterKey": "evaluation"}}
    broken = altered(ALL[0], lambda _, platform: platform.update(nodeSelector={"nodeSelectorJson": told}))
    with pytest.raises(ConfigError, match=r"depends on plan.evaluation, which only a run can tell"):
        evaluation(broken)


def test_settings_that_are_not_rendered_are_named() -> None:
    broken = altered(ALL[0], lambda _, platform: platform.update(pvcMount=[]))
    with pytest.raises(ConfigError, match="has the settings pvcMount, which are not rendered"):
        evaluation(broken)


def test_variables_come_as_the_table_says() -> None:
    main = main_of(pods_by_step(k8s_settings="distillery-settings")["train_student"])
    variables = {each["name"]: each for each in main["env"]}
    assert len(variables) == len(main["env"])
    store = {"configMapKeyRef": {"name": "distillery-settings", "key": "store", "optional": False}}
    assert variables["DISTILLERY_STORE"]["valueFrom"] == store
    assert variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "distillery-credentials"
    assert variables["TMPDIR"]["value"] == "/scratch"
    assert main["args"][:2] == ["sh", "-ec"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teacher_uri": ""}, "--teacher is missing"),
        ({"run_profil": "cpu"}, "Pipeline "),
        ({"run_profile": "gke"}, "There is no profile 'gke'"),
        ({"k8s_overrides": {"large.accelerators": "2"}}, "k8s_overrides.large.accelerators = '2' is not allowed: a step works on one"),
        ({"k8s_settings": "mine"}, "k8s_settings = 'mine' is not allowed: this package offers 'distillery-settings'"),
        ({"run_recipe": "students/nothing"}, "run_recipe = 'students/nothing' is not allowed: this package offers "),
    ],
)
def test_what_the_form_the_api_or_the_plan_would_refuse(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render_pods(package(ALL[0]), {**form(ALL[0]), **given})
    assert str(caught.value).startswith(said)


def test_a_profile_that_the_package_does_not_offer() -> None:
    with pytest.raises(ConfigError, match="run_profile = 'nvidia' is not allowed: this package offers 'team'"):
        render_pods(package(ALL[0], own=True), form(ALL[0], run_profile="nvidia"))


@pytest.mark.parametrize("text", ["", "a: [", "a: 1\n", "- 1\n", "pipelineInfo: {name: other}\n---\n{}\n", "pipelineInfo: {}\n"])
def test_a_file_that_is_no_package(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is no compiled pipeline"):
        read_package(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DistilleryError, match="is no compiled pipeline"):
        read_package(tmp_path / "y.yaml")
    with pytest.raises(MissingResourceError, match="cannot be read"):
        read_package(tmp_path / "none.yaml")


def told(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["distillery", "pods", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path, params = tmp_path / "package.yaml", tmp_path / "params.json"
    path.write_text(package("ensemble_distillation").text)
    params.write_text(json.dumps(form("ensemble_distillation", run_profile="mig-1g")))
    assert told([str(path), "--params", str(params)], monkeypatch) == 0
    pods = {pod["metadata"]["name"]: pod for pod in yaml.safe_load_all(capsys.readouterr().out)}
    assert {component_of(name) for name in pods} == {
        "plan",
        "extract_statistics",
        "train_generator",
        "materialize",
        "train_student",
        "evaluate",
        "register",
    }
    assert main_of(pods["train-generator"])["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1", "one pod for all shards of a loop"
    for pod in pods.values():
        kubernetes_validate.validate(pod, MINORS[0], strict=True)


@pytest.mark.parametrize(("text", "said"), [("", "is no mapping"), ("- a\n", "is no mapping"), ("a: [\n", "is no mapping")])
def test_params_that_are_none(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(text)
    assert told([str(tmp_path / "x.yaml"), "--params", str(tmp_path / "params.yaml")], monkeypatch) == 1
    assert told([str(tmp_path / "x.yaml"), "--params", str(tmp_path / "none.yaml")], monkeypatch) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert said in first
    assert "cannot be read" in second
