"""Runs: begun once whatever fails, pinned to a version, and begun again with the values of one that ended badly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery_kfp.pipelines.registrar.package import PipelinePackage, read_package
from distillery_kfp.pipelines.registrar.submitting import Submission, read_params, submit, submit_again
from distillery_kfp.pipelines.registrar.uploading import find_version
from kubeflow_api import FakeKubeflow
from kubeflow_places import HOST, PARAMETERS, asked, packed

RELEASE = "1.4.0"
WANTED = Submission("mine", "distillery", {**PARAMETERS, "seed": 3}, "runner", "s3://runs/root")


def ended(fake: FakeKubeflow, run: dict[str, Any], state: str) -> str:
    """The run after it came to a state."""
    fake.runs[run["run_id"]]["state"] = state
    return str(run["run_id"])


def test_a_run_is_pinned_to_the_version_of_its_package(fake: FakeKubeflow, package: PipelinePackage) -> None:
    run = submit(asked(fake), package, RELEASE, WANTED)
    there = find_version(asked(fake), package, RELEASE)
    assert there is not None
    assert run["pipeline_version_reference"] == {"pipeline_id": there.pipeline, "pipeline_version_id": there.version}
    assert run["runtime_config"] == {"parameters": {**PARAMETERS, "seed": 3}, "pipeline_root": "s3://runs/root"}
    assert run["service_account"] == "runner"
    assert run["plugins_input"] == {"mlflow": {"experiment_name": "distillery"}}
    assert fake.experiments[run["experiment_id"]]["display_name"] == "distillery"
    second = submit(asked(fake), package, RELEASE, WANTED)
    assert second["run_id"] != run["run_id"]
    assert (len(fake.versions), len(fake.experiments), fake.violations) == (1, 1, [])


@pytest.mark.parametrize("how", ["before", "after", "lost"])
def test_one_run_begins_whichever_request_fails(package: PipelinePackage, how: str) -> None:
    submit(asked(count := FakeKubeflow()), package, RELEASE, WANTED)
    for failing in range(len(count.made)):
        server = FakeKubeflow(failure=lambda number, name, failing=failing: how if number == failing else "")  # type: ignore[misc]
        run = submit(asked(server), package, RELEASE, WANTED)
        assert list(server.runs) == [run["run_id"]]
        assert server.violations == []


def test_a_server_that_begins_no_run_is_said(package: PipelinePackage) -> None:
    server = FakeKubeflow(failure=lambda number, name: "before" if name == "create_run" else "")
    with pytest.raises(MissingResourceError, match="it begins no run"):
        submit(asked(server), package, RELEASE, WANTED)
    assert server.runs == {}


def test_a_value_that_is_not_allowed_asks_nothing(fake: FakeKubeflow, package: PipelinePackage) -> None:
    for parameters, words in (({}, "params.source_uri is missing"), ({**PARAMETERS, "method": "kdd"}, "did you mean 'kd'")):
        with pytest.raises(ConfigError, match=words):
            submit(asked(fake), package, RELEASE, replace(WANTED, parameters=parameters))
    assert fake.made == []


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_again_takes_every_value_of_the_run(fake: FakeKubeflow, package: PipelinePackage, state: str) -> None:
    first = submit(asked(fake), package, RELEASE, WANTED)
    again = submit_again(asked(fake), ended(fake, first, state))
    same = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account", "plugins_input")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert again["run_id"] != first["run_id"]
    assert again["display_name"] == "mine again"
    assert first["run_id"] in again["description"]
    third = submit_again(asked(fake), ended(fake, again, "FAILED"))
    assert third["display_name"] == "mine again"
    assert fake.violations == []


def test_again_by_a_mended_package(fake: FakeKubeflow, package: PipelinePackage, tmp_path: Path) -> None:
    first = submit(asked(fake), package, RELEASE, WANTED)
    mended = read_package(packed(tmp_path, old=HOST, new=f"{HOST}mended/"))
    again = submit_again(asked(fake), ended(fake, first, "FAILED"), mended, "1.4.1")
    assert again["pipeline_version_reference"] != first["pipeline_version_reference"]
    assert again["runtime_config"] == first["runtime_config"]
    other = read_package(packed(tmp_path, old="      seed:", new="      other_seed:"))
    with pytest.raises(ConfigError, match=r"seed is no parameter of learn-weekly"):
        submit_again(asked(fake), first["run_id"], other, "1.4.2")
    assert len(fake.runs) == 2


@pytest.mark.parametrize(
    ("state", "words"),
    [("RUNNING", "still works"), ("PENDING", "still works"), ("CANCELING", "still works"), ("SUCCEEDED", "nothing is left")],
)
def test_again_refuses_what_is_not_over_or_succeeded(fake: FakeKubeflow, package: PipelinePackage, state: str, words: str) -> None:
    first = submit(asked(fake), package, RELEASE, WANTED)
    with pytest.raises(ConfigError, match=words):
        submit_again(asked(fake), ended(fake, first, state))
    assert len(fake.runs) == 1


def test_again_of_what_is_not_there_is_said(fake: FakeKubeflow, package: PipelinePackage) -> None:
    with pytest.raises(MissingResourceError, match="no run 'nothing'"):
        submit_again(asked(fake), "nothing")
    first = submit(asked(fake), package, RELEASE, WANTED)
    fake.versions.clear()
    with pytest.raises(MissingResourceError, match="is gone: give a package"):
        submit_again(asked(fake), ended(fake, first, "FAILED"))


def test_values_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("source_uri: s3://models/set\nseed: 3\noverrides: {a: 1e-5}\n")
    assert read_params(path) == {"source_uri": "s3://models/set", "seed": 3, "overrides": {"a": 1e-5}}
    for text in ("a: [", "- 1", "text", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no values"):
            read_params(path)
    with pytest.raises(MissingResourceError, match="cannot be read"):
        read_params(tmp_path / "nothing.yaml")
