"""The fake is no invention: its table agrees with Kubeflow's own client, which can work with the fake, and each of its rules catches."""

import re
from pathlib import Path
from typing import Any

import kfp_server_api
import pytest

from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.reconciling import apply
from distillery_kfp.pipelines.registrar.schedules import Wanted
from kubeflow_api import FakeKubeflow
from kubeflow_places import asked, scheduled
from kubeflow_table import KINDS, OPERATIONS, faults_of_body, faults_of_query, rules

TYPES = {
    "str": "string",
    "bool": "boolean",
    "datetime": "string",
    "object": "object",
    "dict(str, object)": "map",
    "dict(str, str)": "texts",
}
BY_NAME = {operation.name: operation for operation in OPERATIONS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_are_those_of_kubeflows_client(kind: str) -> None:
    model = getattr(kfp_server_api, kind)
    assert set(KINDS[kind]) == set(model.openapi_types)
    assert all(model.attribute_map[name] == name for name in KINDS[kind])
    for name, row in KINDS[kind].items():
        known = TYPES.get(model.openapi_types[name])
        assert row.output or known is None or row.type == known or (row.type, known) == ("long", "string"), name


def test_the_requests_are_those_of_kubeflows_client() -> None:
    sources = "".join(path.read_text() for path in (Path(kfp_server_api.__file__).parent / "api").glob("*_service_api.py"))
    known = {(method, re.sub(r"{[^}]+}", "{}", path)) for path, method in re.findall(r"'(/apis/v2beta1[^']*)', '([A-Z]+)'", sources)}
    assert {(operation.method, f"/apis/v2beta1{operation.path}") for operation in OPERATIONS} <= known


def test_kubeflows_own_client_can_work_with_the_fake(fake: FakeKubeflow, package: PipelinePackage, tmp_path: Path) -> None:
    file = tmp_path / "package.yaml"
    file.write_bytes(package.data)
    with fake.serve() as url:
        client = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=url))
        pipelines = kfp_server_api.PipelineServiceApi(client)
        made = pipelines.pipeline_service_create_pipeline(kfp_server_api.V2beta1Pipeline(name="a", display_name="a"))
        upload = kfp_server_api.PipelineUploadServiceApi(client)
        version = upload.upload_pipeline_version(str(file), name="a-1", pipelineid=made.pipeline_id)
        assert version.pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"] == package.name
        experiments = kfp_server_api.ExperimentServiceApi(client)
        experiment = experiments.experiment_service_create_experiment(kfp_server_api.V2beta1Experiment(display_name="b"))
        said = scheduled(package).body(made.pipeline_id, version.pipeline_version_id, experiment.experiment_id)
        recurring = kfp_server_api.RecurringRunServiceApi(client)
        run = recurring.recurring_run_service_create_recurring_run(client._ApiClient__deserialize(said, "V2beta1RecurringRun"))
        recurring.recurring_run_service_enable_recurring_run(run.recurring_run_id)
        [found] = recurring.recurring_run_service_list_recurring_runs().recurring_runs
        assert (found.mode, found.plugins_input) == ("ENABLE", said["plugins_input"])
    assert fake.violations == []


def sent(package: PipelinePackage) -> dict[str, Any]:
    wanted: Wanted = scheduled(package)
    return wanted.body("p", "v", "e")


def test_what_the_registrar_sends_keeps_all_rules(package: PipelinePackage) -> None:
    body = sent(package)
    assert list(faults_of_body("V2beta1RecurringRun", body)) == list(rules(BY_NAME["create_recurring_run"], {}, body)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trigger": {"cron_schedule": {"cron": "0 3 * * 1"}}}, "read shifted"),
        ({"no_catchup": None}, "everything missed"),
        ({"max_concurrency": "2"}, "two runs"),
        ({"max_concurrency": 1}, "is no long"),
        ({"plugins_input": None}, "bypass"),
        ({"plugins_input": {"mlflow": {"experiment": "a"}}}, "unknown fields"),
        ({"plugins_input": {"mlflow": "a"}}, "is no object"),
        ({"pipeline_version_reference": {"pipeline_id": "p"}}, "newest version"),
        ({"runtime_config": {"parameters": {"a": {"b": "[[Index]]"}}}}, "macro"),
        ({"mode": "ENABLE"}, "while the one that it replaces"),
        ({"mode": "DISABLED"}, "is none of"),
        ({"recurring_run_id": "a"}, "the server's to write"),
        ({"namespace": "a"}, "the server's to write"),
        ({"concurrency": "1"}, "has no field"),
        ({"display_name": ""}, "is missing"),
        ({"trigger": {"cron": "0 0 3 * * 1"}}, "has no field"),
        ({"no_catchup": "true"}, "is no boolean"),
    ],
)
def test_each_rule_catches(package: PipelinePackage, change: dict[str, Any], words: str) -> None:
    body = {name: value for name, value in {**sent(package), **change}.items() if value is not None}
    found = [*faults_of_body("V2beta1RecurringRun", body), *rules(BY_NAME["create_recurring_run"], {}, body)]
    assert [fault for fault in found if words in fault]


def test_a_schedule_is_not_deleted_together_with_its_run() -> None:
    operation = BY_NAME["delete_recurring_run"]
    assert list(rules(operation, {}, {}))
    assert list(faults_of_query(operation, {"propagation_policy": "orphan"}))
    assert not list(rules(operation, {"propagation_policy": "ORPHAN"}, {}))


def test_a_violation_is_refused_and_kept(fake: FakeKubeflow, package: PipelinePackage) -> None:
    api = asked(fake)
    apply(api, "team", [scheduled(package)])
    [run] = fake.recurring.values()
    for body in ({}, {**sent(package), "experiment_id": run["experiment_id"], "concurrency": "1"}):
        with pytest.raises(Exception, match="refuses POST"):
            api.create_recurring_run(body)
    assert len(fake.violations) == 2
