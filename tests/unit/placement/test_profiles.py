"""Profiles as files: what ships is whole, what a run changes of one, and what people write is read or refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.placement.pools import PLACED
from distillery.placement.profiles import (
    DEFAULT_PROFILE,
    FIELDS,
    PROFILES,
    WITHOUT_ACCELERATORS,
    Fixed,
    NodeProfile,
    choose_placement,
    find_profile,
    profile_names,
    read_profile,
    without_placement,
)

TEAM = (PROFILES / "nvidia.yaml").read_text() + (
    "fixed: {queue: gpus, priority: low, pull_secrets: [keys], user: 2000, "
    "affinity: {large: [{key: zone, operator: In, values: [a, b]}]}}\n"
)


@pytest.mark.parametrize("name", profile_names())
def test_what_ships(name: str) -> None:
    profile = find_profile(name)
    assert profile.summary.endswith(".")
    assert {field: type(value) for field, value in profile.outputs().items()} == PLACED
    assert profile.fixed == Fixed(), "one compiled file serves all of them"
    accelerated = [pool.accelerators for pool in (profile.medium, profile.large)]
    assert accelerated == (["0", "0"] if name == WITHOUT_ACCELERATORS else ["1", "1"])


def test_names() -> None:
    assert {"cpu", "nvidia", "gke-l4", "eks-a10", "aks-a100", "mig-1g"} == set(profile_names())
    assert {DEFAULT_PROFILE, WITHOUT_ACCELERATORS} <= set(profile_names())
    assert len({find_profile(name).large.to_json().__repr__() for name in profile_names()}) == len(profile_names())


def test_a_run_changes_single_values() -> None:
    found = choose_placement({"run_profile": "gke-l4", "k8s_overrides": {"large.memory_limit": "64Gi", "small.node_selector": {"a": "b"}}})
    assert found is not None
    assert found.accelerated
    changed = {**find_profile("gke-l4").outputs(), "large_memory_limit": "64Gi", "small_node_selector": {"a": "b"}}
    assert found.pools.outputs() == changed
    replaced = choose_placement({"run_profile": "gke-l4", "k8s_overrides": {"large.node_selector": {"pool": "x"}}})
    assert replaced is not None
    assert replaced.pools.large.node_selector == {"pool": "x"}, "a selector is replaced whole"


def test_a_form_that_says_nothing_of_places() -> None:
    assert choose_placement({"run_seed": 1}) is None
    assert without_placement({"run_seed": 1, **dict.fromkeys(FIELDS, "x")}) == {"run_seed": 1}
    on_cpus = choose_placement({"run_profile": "cpu"})
    assert on_cpus is not None
    assert not on_cpus.accelerated


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            {"run_profile": "gke"},
            "There is no profile 'gke'; known: aks-a100, cpu, eks-a10, gke-l4, mig-1g, nvidia, did you mean 'gke-l4'?",
        ),
        ({"run_profile": ""}, "There is no profile ''; known: "),
        ({"run_profile": "../profiles/cpu"}, "There is no profile '../profiles/cpu'"),
        ({"k8s_overrides": []}, "k8s_overrides = [] is not allowed: give a mapping such as"),
        ({"k8s_overrides": {"large": {"cpu_limit": "8"}}}, "k8s_overrides has no 'large': name a size (small, medium, large) and a field"),
        ({"k8s_overrides": {"larg.cpu_limit": "8"}}, "k8s_overrides has no 'larg.cpu_limit': name a size"),
        ({"k8s_overrides": {"fixed.queue": "x"}}, "k8s_overrides has no 'fixed.queue': name a size"),
        ({"k8s_overrides": {1: "x"}}, "k8s_overrides has no 1: name a size"),
        ({"k8s_overrides": {"large.cpus": "8"}}, "Unknown key 'k8s_overrides.large.cpus'; allowed here: accelerator, accelerators, "),
        ({"k8s_overrides": {"small.accelerators": "1"}}, "Unknown key 'k8s_overrides.small.accelerators'; allowed here: cpu_limit, "),
        ({"k8s_overrides": {"large.memory_limit": "a lot"}}, "k8s_overrides.large.memory_limit = 'a lot' is not allowed: give an amount"),
        ({"k8s_overrides": {"large.cpu_limit": "1"}}, "k8s_overrides.large is not allowed: cpu_request = '2' is above cpu_limit = '1'"),
        ({"k8s_overrides": {"large.accelerators": "4"}}, "k8s_overrides.large.accelerators = '4' is not allowed: a step works on one"),
        ({"k8s_overrides": {"large.tolerations": [{"operator": "Any"}]}}, "k8s_overrides.large.tolerations.0.operator = 'Any' is not"),
    ],
)
def test_one_sentence_for_a_run(form: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_placement(form)
    assert str(caught.value).startswith(said)
    assert str(caught.value).count(". ") == 0


def test_a_profile_of_somebody_s_own(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(TEAM)
    name, profile = read_profile(str(tmp_path / "team.yaml"))
    assert name == "team"
    assert profile.fixed.queue == "gpus"
    assert not profile.agrees_with(find_profile("nvidia"))
    assert profile.outputs() == find_profile("nvidia").outputs()
    assert read_profile("mig-1g") == ("mig-1g", find_profile("mig-1g"))
    brought = {"team": profile.to_json()}
    placed = choose_placement({"run_profile": "team", "profiles": brought, "k8s_overrides": {"large.cpu_limit": "3"}})
    assert placed is not None
    assert placed.pools.large.cpu_limit == "3"
    with pytest.raises(ConfigError, match="known: aks-a100, cpu, eks-a10, gke-l4, mig-1g, nvidia, team"):
        choose_placement({"run_profile": "tame2", "profiles": brought})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "own must be a mapping of keys to values, not None"),
        ("large: [\n", "is no YAML: copy a profile of the package"),
        ("summary: x.\n", "own.small is missing"),
        (TEAM.replace("queue: gpus, ", ""), "own.fixed is not allowed: priority = 'low' is Kueue's"),
        (TEAM.replace("queue: gpus", "queue: My Queue"), "own.fixed.queue = 'My Queue' is not allowed: give the name of an object"),
        (TEAM.replace("keys", "My Keys"), "own.fixed.pull_secrets.0 = 'My Keys' is not allowed"),
        (TEAM.replace("user: 2000", "user: -1"), "own.fixed.user = -1 is not allowed"),
        (
            TEAM.replace("user: 2000", "priority_class: x"),
            "Unknown key 'own.fixed.priority_class'; allowed here: affinity, plan, priority, ",
        ),
        (TEAM.replace("operator: In", "operator: Within"), "own.fixed.affinity.large.0.operator = 'Within' is not allowed"),
        (
            TEAM.replace("values: [a, b]", "values: []"),
            "own.fixed.affinity.large.0 is not allowed: the operator In takes at least one value.",
        ),
        (TEAM.replace("operator: In", "operator: Gt"), "own.fixed.affinity.large.0 is not allowed: the operator Gt takes one value."),
        (
            TEAM.replace("operator: In", "operator: Exists"),
            "own.fixed.affinity.large.0 is not allowed: the operator Exists takes no value.",
        ),
        (TEAM.replace("large: *pool", "large: *pool\nhuge: *pool"), "Unknown key 'own.huge'; allowed here: fixed, large, medium, small"),
        (TEAM.replace('accelerators: "1"', 'accelerators: "8"'), "own.medium.accelerators = '8' is not allowed: a step works on one"),
    ],
)
def test_one_sentence_for_a_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_profile(str(tmp_path / "own.yaml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nvidia.yaml", "My Team.yaml", "-a.yml"])
def test_a_file_that_is_called_wrong(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEAM)
    with pytest.raises(DistilleryError, match="is not allowed: call the file by small letters, digits and hyphens, and not like one of"):
        read_profile(str(tmp_path / name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path / "folder.yaml"):
        (tmp_path / "folder.yaml").mkdir(exist_ok=True)
        with pytest.raises(MissingResourceError, match="cannot be read"):
            read_profile(str(path))
    with pytest.raises(ConfigError, match="There is no profile 'none'"):
        read_profile("none")


def test_two_agree_where_they_fix_the_same() -> None:
    one = find_profile("cpu")
    assert one.agrees_with(find_profile("nvidia"))
    other = NodeProfile.parse({**one.to_json(), "fixed": {"user": 1}}, "other")
    assert not one.agrees_with(other)
