"""The file of schedules: everything that is wrong with it is said before anything is asked of a server."""

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery.plain_yaml import write_yaml
from distillery_kfp.pipelines.registrar.cron import check_cron
from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.parameters import LARGEST_BYTES, check_parameters
from distillery_kfp.pipelines.registrar.schedules import ScheduleFile, Wanted, mark_of, read_schedules
from kubeflow_places import PARAMETERS, WEEKLY, scheduled


def read(folder: Path, package: PipelinePackage, **said: Any) -> tuple[ScheduleFile, list[Wanted]]:
    """A file with one schedule, read."""
    file = folder / "schedules.yaml"
    file.write_text(write_yaml({"owner": "team", "schedules": [{**WEEKLY, **said}]}))
    return read_schedules(file, {package.name: package}, "1.4.0")


def test_a_file_says_what_the_server_should_have(tmp_path: Path, package: PipelinePackage) -> None:
    file, [wanted] = read(tmp_path, package, cron=" 0 0  3 * * 1 ", service_account="runner", pipeline_root="s3://runs/root")
    assert file.experiment == "distillery"
    body = wanted.body("pipeline", "version", "experiment")
    assert body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert body["max_concurrency"] == "1"
    assert body["no_catchup"] is True
    assert body["mode"] == "DISABLE"
    assert body["service_account"] == "runner"
    assert body["runtime_config"] == {"parameters": PARAMETERS, "pipeline_root": "s3://runs/root"}
    assert body["plugins_input"] == {"mlflow": {"experiment_name": "distillery"}}
    assert body["pipeline_version_reference"] == {"pipeline_id": "pipeline", "pipeline_version_id": "version"}
    assert body["description"].startswith(package.description)
    assert mark_of(body["description"]) == ("team", wanted.sha256)


def test_the_hash_names_all_that_makes_another_schedule(package: PipelinePackage) -> None:
    base = scheduled(package)
    others = [
        scheduled(package, name="monthly"),
        scheduled(package, cron="0 0 4 * * 1"),
        scheduled(package, no_catchup=False),
        scheduled(package, parameters={"seed": 1}),
        scheduled(package, service_account="other"),
        scheduled(package, pipeline_root="s3://other"),
        scheduled(package, plugins_input={"mlflow": {"disabled": True}}),
        scheduled(package, release="1.5.0"),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 1 + len(others)
    assert scheduled(package, enabled=False).sha256 == base.sha256
    assert scheduled(package, parameters={"seed": 3}).sha256 == scheduled(package, parameters={"seed": 3.0}).sha256


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"cron": "0 3 * * 1"}, "has 5 fields: give six"),
        ({"cron": "0 0 3 * * 1 2026"}, "has 7 fields"),
        ({"cron": "@weekly"}, "has 1 fields"),
        ({"cron": "0 0 25 * * 1"}, "'25' is no hour"),
        ({"cron": "0 0 3 * * 7"}, "'7' is no day of the week"),
        ({"cron": "0 0 3 0 * ?"}, "'0' is no day of the month"),
        ({"no_catchup": "yes"}, "no_catchup"),
        ({"pipeline": "learn-weakly"}, "did you mean 'learn-weekly'"),
        ({"max_concurrency": 2}, "Unknown key"),
        ({"host": "https://elsewhere.example.org"}, "Unknown key"),
        ({"token": "abc"}, "Unknown key"),
        ({"plugins_input": {}}, "must not be empty"),
        ({"plugins_input": {"mlflow": {"experiment": "x"}}}, "did you mean 'experiment_"),
        ({"plugins_input": {"mlflow": {"experiment_name": "[[Index]]"}}}, r"write no '\[\['"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"parameters": {**PARAMETERS, "salt": "week [[ScheduledTime]]"}}, r"parameters.salt .* write no '\[\['"),
        ({"parameters": {**PARAMETERS, "overrides": {"a": ["[[Index]]"]}}}, r"overrides .* write no '\[\['"),
        ({"pipeline_root": "s3://a/[[Index]]"}, "pipeline_root"),
        ({"parameters": {}}, "source_uri is missing: Where it lies"),
        ({"parameters": {**PARAMETERS, "sead": 1}}, "did you mean 'seed'"),
        ({"parameters": {**PARAMETERS, "seed": "1"}}, "give a whole number"),
        ({"parameters": {**PARAMETERS, "seed": 1.5}}, "give a whole number"),
        ({"parameters": {**PARAMETERS, "seed": True}}, "give a whole number"),
        ({"parameters": {**PARAMETERS, "seed": 2**53}}, "give a whole number"),
        ({"parameters": {**PARAMETERS, "salt": 7}}, "give a text"),
        ({"parameters": {**PARAMETERS, "salt": None}}, "give a text"),
        ({"parameters": {**PARAMETERS, "overrides": ["a"]}}, "give a mapping"),
        ({"parameters": {**PARAMETERS, "overrides": {"a": None}}}, "give a mapping"),
        ({"parameters": {**PARAMETERS, "method": "kdd"}}, "did you mean 'kd'"),
        ({"parameters": {**PARAMETERS, "overrides": {"a": "x" * LARGEST_BYTES}}}, "Kubeflow takes at most 10,000"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, package: PipelinePackage, said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, package, **said)


def test_catching_up_is_never_left_open(tmp_path: Path, package: PipelinePackage) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text(write_yaml({"owner": "team", "schedules": [{name: said for name, said in WEEKLY.items() if name != "no_catchup"}]}))
    with pytest.raises(ConfigError, match="schedules.0.no_catchup is missing"):
        read_schedules(file, {package.name: package}, "1.4.0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("owner: [", "is no YAML"),
        ("- 1", "must be a mapping"),
        ("owner: team", "schedules is missing"),
        ("schedules: []", "owner is missing"),
        ("{owner: A B, schedules: []}", "small letters"),
        ("{owner: team, schedules: [], experimet: a}", "did you mean 'experiment'"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, package: PipelinePackage, text: str, words: str) -> None:
    (tmp_path / "schedules.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_schedules(tmp_path / "schedules.yaml", {package.name: package}, "1.4.0")


def test_two_schedules_of_one_name_are_refused(tmp_path: Path, package: PipelinePackage) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text(write_yaml({"owner": "team", "schedules": [WEEKLY, WEEKLY]}))
    with pytest.raises(ConfigError, match="two are called 'weekly'"):
        read_schedules(file, {package.name: package}, "1.4.0")


def test_a_file_that_is_not_there_is_missed(tmp_path: Path, package: PipelinePackage) -> None:
    with pytest.raises(MissingResourceError, match="cannot be read"):
        read_schedules(tmp_path / "schedules.yaml", {package.name: package}, "1.4.0")


@pytest.mark.parametrize("cron", ["0 0 3 * * 1", "*/10 * * * * ?", "0 30 8-18/2 1,15 JAN-jun MON-FRI", "59 59 23 31 12 6", "0 0 3 ? * SUN"])
def test_cron_takes_what_the_controller_takes(cron: str) -> None:
    assert check_cron(cron) == cron


@pytest.mark.parametrize("field", ["60", "-1", "5-3", "*/0", "*-5", "a", "", "1,,2", "1.5", "MON"])
def test_cron_refuses_what_no_second_can_be(field: str) -> None:
    with pytest.raises(ConfigError):
        check_cron(f"{field} 0 3 * * 1")


def test_no_value_of_the_form_is_lost_or_added(package: PipelinePackage) -> None:
    given = {**PARAMETERS, "seed": 3.0, "overrides": {"student.epochs": 2}}
    sent = check_parameters(package, given, "parameters")
    assert sent == given
    assert isinstance(sent["seed"], int)
