"""Profiles in a compiled file: what they fix is written as kfp writes it, the form offers those that agree, the plan knows them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from distillery.errors import ConfigError
from distillery.placement.pools import PLACED
from distillery.placement.profiles import PROFILES, NodeProfile, choose_placement, find_profile, profile_names
from distillery_kfp.components.ops.plan.component import plan
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.deployment import Deployment, choose_deployment
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.lint import lint
from distillery_kfp.pipelines.registrar.package import read_package
from distillery_kfp.pipelines.registrar.parameters import check_parameters
from distillery_kfp.pipelines.resources import SCRATCH_MOUNT

TEAM = (
    (PROFILES / "nvidia.yaml").read_text()
    + """
fixed:
  plan: {cpu_request: "2", cpu_limit: "3", memory_request: 1Gi, memory_limit: 3Gi, node_selector: {pool: cheap},
    tolerations: [{key: spot, value: "yes", effect: NoExecute, tolerationSeconds: 300}]}
  user: 2000
  queue: gpus
  priority: low
  pull_secrets: [keys]
  affinity:
    plan: [{key: zone, operator: Exists}]
    small: [{key: zone, operator: In, values: [a, b]}]
"""
)
OWN = Deployment(profiles={"team": NodeProfile.parse(yaml.safe_load(TEAM), "team")})
PIPELINE = ALL[0]


@pytest.fixture(name="team")
def _team(tmp_path: Path) -> Path:
    (tmp_path / "team.yaml").write_text(TEAM)
    return tmp_path / "team.yaml"


@pytest.fixture(scope="module")
def compiled_twice() -> tuple[str, str]:
    """The pipeline for the package's profiles, and for one that fixes something else."""
    return compile_text(PIPELINE), compile_text(PIPELINE, OWN)


@dsl.pipeline(name="fixed")
def by_hand(section: dict[str, Any] = {}) -> None:  # noqa: B006
    """Say by kfp's own functions what the profile above fixes."""
    inputs = {
        name: "" if field.type == "String" else 0 if field.type == "Integer" else {} for name, field in plan.component_spec.inputs.items()
    }
    first, second = plan(**inputs), extract_statistics(section=section, teacher_uri="a", synth_statistics_uri="")
    for task in (first, second):
        kubernetes.set_security_context(task, run_as_user=2000, run_as_group=0, run_as_non_root=True)
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", "gpus")
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/priority-class", "low")
        kubernetes.set_image_pull_secrets(task, ["keys"])
    kubernetes.add_node_affinity(first, [{"key": "zone", "operator": "Exists"}])
    kubernetes.add_node_affinity(second, [{"key": "zone", "operator": "In", "values": ["a", "b"]}])
    kubernetes.add_node_selector(first, "pool", "cheap")
    kubernetes.add_toleration(first, "spot", "Equal", "yes", "NoExecute", 300)
    first.set_cpu_request("2").set_cpu_limit("3").set_memory_request("1Gi").set_memory_limit("3Gi")


def test_what_a_profile_fixes_is_written_as_kfp_writes_it(team: Path, tmp_path: Path) -> None:
    compiler.Compiler().compile(by_hand, str(tmp_path / "fixed.yaml"))
    spec, settings = yaml.safe_load_all((tmp_path / "fixed.yaml").read_text())
    executors = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    theirs = {label: executor.copy() for label, executor in executors.items()}
    asked = spec["deploymentSpec"]["executors"]["exec-plan"]["container"].pop("resources")
    for executor in executors.values():
        executor.clear()
    choose_deployment(profiles=[str(team)]).apply(spec, settings)
    del theirs["exec-plan"]["tolerations"][0]["operator"]  # Equal, which Kubernetes and the profile leave out
    assert executors == theirs
    ours = spec["deploymentSpec"]["executors"]["exec-plan"]["container"]["resources"]
    assert ours == {name: value for name, value in asked.items() if name.startswith("resource")}
    assert set(ours) == {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"}


def test_the_plan_hands_each_value_out_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """kfp takes a tuple by position, so one name out of order would give a pod another's memory."""
    names = list(plan.component_spec.outputs)
    assert set(PLACED) < set(names)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("distillery.steps.plan.run", lambda _, form: asked.append(form) or {name: name for name in names})
    given = {name: "" for name in plan.component_spec.inputs}
    assert list(plan.python_func(**given)) == names
    assert asked == [{"run_profile": ""}], "an empty profile is refused by the plan, not taken for the default"


def test_one_form_offers_the_package_s_profiles(compiled_twice: tuple[str, str]) -> None:
    field = Compiled.parse(PIPELINE, compiled_twice[0]).parameters()["run_profile"]
    assert field["defaultValue"] == "nvidia"
    assert set(field["literals"]) == set(profile_names())


def test_a_profile_that_fixes_something_else_is_offered_alone_and_known_to_the_plan(compiled_twice: tuple[str, str]) -> None:
    committed, text = compiled_twice
    compiled = Compiled.parse(PIPELINE, text)
    assert compiled.parameters()["run_profile"]["literals"] == ["team"]
    assert "#    run_profile: str [Default: 'team']" in text
    told = next(task for _, name, task in compiled.tasks() if name == "plan")["inputs"]["parameters"]["profiles"]["runtimeValue"][
        "constant"
    ]
    placed = choose_placement({"run_profile": "team", "profiles": told})
    assert placed is not None
    assert placed.pools.outputs() == find_profile("nvidia").outputs()
    assert lint(PIPELINE, text, OWN) == []
    broken = {line.partition(":")[0] for line in lint(PIPELINE, text)}
    assert broken == {"choices_are_literals", "fixed_as_chosen"}
    assert lint(PIPELINE, committed) == []


def test_the_registrar_knows_the_profiles_that_a_package_brings_along(compiled_twice: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(compiled_twice[1].replace("registry.example.com", "registry.example.net"))
    package = read_package(tmp_path / "own.yaml")
    given = {"teacher_uri": "s3://models/teacher", "k8s_overrides": {"large.cpu_limit": "3"}}
    for profile in ({}, {"run_profile": "team"}):
        assert check_parameters(package, {**given, **profile}, "run") == {**given, **profile}
    with pytest.raises(ConfigError, match="run.run_profile = 'nvidia' is not allowed: choose 'team'"):
        check_parameters(package, {**given, "run_profile": "nvidia"}, "run")
    with pytest.raises(ConfigError, match="a step works on one accelerator"):
        check_parameters(package, {**given, "k8s_overrides": {"large.accelerators": "2"}}, "run")


def test_what_is_offered_together(team: Path, tmp_path: Path) -> None:
    assert list(choose_deployment(profiles=["gke-l4"]).profiles)[0] == "gke-l4"
    assert set(choose_deployment(profiles=["gke-l4"]).profiles) == set(profile_names())
    assert choose_deployment(profiles=["gke-l4"]).own_profiles == {}
    (tmp_path / "second.yaml").write_text(TEAM.replace("memory_limit: 16Gi", "memory_limit: 32Gi"))
    both = choose_deployment(profiles=[str(team), str(tmp_path / "second.yaml")], pull_secrets=["more", "keys"])
    assert list(both.profiles) == list(both.own_profiles) == ["team", "second"]
    assert both.fixed.pull_secrets == ("keys", "more")
    (tmp_path / "plain.yaml").write_text((PROFILES / "cpu.yaml").read_text())
    mixed = choose_deployment(profiles=[str(tmp_path / "plain.yaml")])
    assert set(mixed.profiles) == {"plain", *profile_names()}, "it fixes what the package's profiles fix"
    with pytest.raises(ConfigError, match="^--profile cpu fixes something else than --profile team, and one compiled file"):
        choose_deployment(profiles=[str(team), "cpu"])


def test_the_command(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--profile", "gke"], 1), (["--profile", str(team)], 0)):
        out = tmp_path / f"out{code}"
        monkeypatch.setattr(sys, "argv", ["distillery", "compile", "--out", str(out), *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert int(end.value.code or 0) == code
        assert out.exists() == (code == 0)
    said = capsys.readouterr().err
    assert said.startswith("distillery: There is no profile 'gke'; known: aks-a100, ")
    text = (tmp_path / "out0" / f"{PIPELINE}.yaml").read_text()
    assert "kueue.x-k8s.io/queue-name: gpus" in text
    assert "defaultValue: team" in text


def test_scratch_stays_beside_what_is_fixed(compiled_twice: tuple[str, str]) -> None:
    for text in compiled_twice:
        compiled = Compiled.parse(PIPELINE, text)
        for _, _, task in compiled.executed():
            assert SCRATCH_MOUNT in [mount["mountPath"] for mount in compiled.settings(task)["emptyDirMounts"]]
