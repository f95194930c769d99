"""Jobs that register, reconcile, close and check: what they call, as whom, and with which rights; by Helm's library."""

import json
import re
from typing import Any

import pytest
import yaml
from helm_python import Chart

from charting import CHART, LEAST, ROOT, VARIANTS, objects, pods, render, values
from distillery_kfp.pipelines.registrar import access
from distillery_kfp.pipelines.registrar.schedules import Schedule, ScheduleFile

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


def registration(given: dict[str, Any], kind: str = "Job", name: str = "team-registration") -> dict[str, Any]:
    """The pod of a job."""
    return pods([objects(given)[kind, name]])[f"{kind} {name}"]


def commands(pod: dict[str, Any]) -> list[list[str]]:
    """What its containers call, in order."""
    return [container["command"] for container in [*pod.get("initContainers", []), *pod["containers"]]]


def test_the_hook_compiles_uploads_and_schedules() -> None:
    compiles, uploads, schedules = commands(registration(values(VARIANTS["schedules"])))
    assert compiles == [
        "distillery",
        "compile",
        "--out=/scratch/packages",
        "--registry=registry.example.net/team",
        "--images=/etc/registration/images.yaml",
        "--pull-secret=team-registry",
        "--settings=distillery-settings",
        "--credentials=distillery-credentials",
    ]
    assert uploads == ["distillery", "upload", "/scratch/packages", f"--release={VERSION}"]
    assert schedules == [
        "distillery",
        "schedule",
        "/etc/registration/schedules.yaml",
        "--packages=/scratch/packages",
        f"--release={VERSION}",
    ]


def test_other_names_are_compiled_in() -> None:
    compiles, *_ = commands(registration(values(VARIANTS["theirs"])))
    assert {"--settings=their-settings", "--credentials=their-keys"} <= set(compiles)
    assert not [word for word in compiles if word.startswith(("--images", "--pull-secret"))]


def test_a_dry_run_uploads_nothing_and_keeps_its_log() -> None:
    job = objects(values(VARIANTS["dry run"]))["Job", "team-registration"]
    assert [words[1] for words in commands(pods([job])["Job team-registration"])] == ["compile", "schedule"]
    assert commands(pods([job])["Job team-registration"])[-1][-1] == "--dry-run"
    assert job["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_hooks_come_when_they_should() -> None:
    found = objects(values(VARIANTS["schedules"]))
    said = {name: document["metadata"].get("annotations", {}).get("helm.sh/hook") for (_, name), document in found.items()}
    assert said["team-disable-schedules"] == "pre-delete"
    assert said["team-test-kubeflow"] == said["team-test-store"] == "test"
    job = found["Job", "team-registration"]["metadata"]["annotations"]
    assert job == {"helm.sh/hook": "post-install,post-upgrade", "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"}
    assert "helm.sh/hook" not in found["ConfigMap", "team-registration"]["metadata"].get("annotations", {})


def test_reconciling_does_what_registration_does() -> None:
    given = values(VARIANTS["schedules"])
    assert registration(given, "CronJob", "team-reconcile") == registration(given)
    assert objects(given)["CronJob", "team-reconcile"]["spec"]["concurrencyPolicy"] == "Forbid"


def test_uninstalling_schedules_nothing_any_more() -> None:
    given = values(VARIANTS["schedules"])
    assert "/etc/registration/none.yaml" in commands(registration(given, name="team-disable-schedules"))[-1]
    data = objects(given)["ConfigMap", "team-registration"]["data"]
    there, gone = (ScheduleFile.parse(yaml.safe_load(data[name]), name) for name in ("schedules.yaml", "none.yaml"))
    assert there.owner == gone.owner == "vision.team"
    assert [schedule.name for schedule in there.schedules] == ["weekly"]
    assert gone.schedules == ()


def test_scheduled_runs_work_as_the_runner_unless_they_say_otherwise() -> None:
    weekly = VARIANTS["schedules"]["registration"]["schedules"][0]
    given = values({"registration": {"schedules": [weekly, {**weekly, "name": "other", "service_account": "theirs"}]}})
    said = yaml.safe_load(objects(given)["ConfigMap", "team-registration"]["data"]["schedules.yaml"])
    assert [row["service_account"] for row in said["schedules"]] == ["distillery-runner", "theirs"]


def test_a_long_owner_is_shortened_and_stays_its_own() -> None:
    owners = []
    for end in "ab":
        rendered = Chart.load(str(CHART)).render(LEAST, name=f"{'r' * 52}{end}", namespace="n" * 40)
        (config,) = (
            found
            for found in yaml.safe_load_all(rendered["distillery/templates/registration.yaml"])
            if found and found["kind"] == "ConfigMap"
        )
        owners.append(ScheduleFile.parse(yaml.safe_load(config["data"]["schedules.yaml"]), "x").owner)
    assert len(set(owners)) == 2


def test_the_schema_knows_the_fields_of_a_schedule() -> None:
    item = json.loads((CHART / "values.schema.json").read_text())["properties"]["registration"]["properties"]["schedules"]["items"]
    assert set(item["properties"]) == set(Schedule.model_fields)
    assert set(item["required"]) == {name for name, field in Schedule.model_fields.items() if field.is_required()}


def environment_of(pod: dict[str, Any]) -> dict[str, Any]:
    (*_, container) = [*pod.get("initContainers", []), *pod["containers"]]
    return {row["name"]: row.get("value", row.get("valueFrom")) for row in container["env"]}


@pytest.mark.parametrize("shared", [False, True])
def test_the_registrar_asks_as_itself_where_kubeflow_is_shared(shared: bool) -> None:
    pod = registration(values({"kubeflow": {"multiUser": shared}}))
    said = environment_of(pod)
    assert said[access.ENDPOINT] == access.IN_CLUSTER
    assert said.get(access.NAMESPACE) == ("vision" if shared else None)
    assert access.TOKEN not in said
    tokens = [volume["projected"]["sources"][0]["serviceAccountToken"] for volume in pod["volumes"] if "projected" in volume]
    assert [(token["audience"], token["path"]) for token in tokens] == [("pipelines.kubeflow.org", access.PROJECTED.name)] * shared
    places = [row["mountPath"] for row in pod["containers"][0]["volumeMounts"]]
    assert (str(access.PROJECTED.parent) in places) is shared


def test_another_address() -> None:
    assert environment_of(registration(values(VARIANTS["dry run"])))[access.ENDPOINT] == "https://kubeflow.example.net/pipeline"


def test_closing_reads_what_steps_read_and_registering_does_not() -> None:
    said = environment_of(registration(LEAST, "CronJob", "team-closing"))
    assert said["DISTILLERY_STORE"] == {"configMapKeyRef": {"name": "distillery-settings", "key": "store", "optional": False}}
    assert said["MLFLOW_TRACKING_URI"]["configMapKeyRef"]["key"] == "mlflow_tracking_uri"
    assert said["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "distillery-credentials", "key": "s3_secret_key", "optional": True}}
    assert commands(registration(LEAST, "CronJob", "team-closing")) == [["distillery", "cluster-runs", "--close"]]
    assert not {"DISTILLERY_STORE", "AWS_SECRET_ACCESS_KEY"} & set(environment_of(registration(LEAST)))


def test_every_pod_of_the_registrar_runs_as_it_in_the_image_of_tools() -> None:
    found = {name: pod for name, pod in pods(render(values(VARIANTS["schedules"]))).items() if "mlflow" not in name}
    assert len(found) == 6
    for pod in found.values():
        assert pod["serviceAccountName"] == "distillery-registrar"
        assert pod["imagePullSecrets"] == [{"name": "team-registry"}]
        images = {container["image"] for container in [*pod.get("initContainers", []), *pod["containers"]]}
        assert images == {"registry.example.net/team/tools-python:0.1.0"}


def test_an_image_of_ones_own_wins_over_the_registry() -> None:
    own = "registry.example.net/mine/tools:2.0.0"
    assert registration(values({"images": {"table": {"tools": own}}}))["containers"][0]["image"] == own


def test_the_registrars_rights_are_those_that_the_guide_names() -> None:
    text = (ROOT / "docs/guides/schedules.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (pipelines: .*|experiments: .*) \|$", text, flags=re.MULTILINE))
    needed: dict[str, set[str]] = {}
    for command in ("upload", "schedule", "cluster-runs"):
        for part in rows[command].split("; "):
            resource, _, verbs = part.partition(": ")
            needed.setdefault(resource, set()).update(verbs.split(", "))
    role = objects(values(VARIANTS["shared"]))["Role", "distillery-registrar"]["rules"]
    assert {rule["resources"][0]: set(rule["verbs"]) for rule in role} == needed
    assert {rule["apiGroups"][0] for rule in role} == {"pipelines.kubeflow.org"}
