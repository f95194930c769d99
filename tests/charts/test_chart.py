"""The chart by Helm's library: what each value turns on, what is refused, and that every object is one that Kubernetes takes."""

import json
from copy import deepcopy
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError, HelmRenderError, HelmValuesError, lint

from charting import CHART, LEAST, NAMESPACE, RELEASE, VARIANTS, WEEKLY, notes, objects, pods, render, values
from distillery.step_table import STEPS
from distillery_kfp.pipelines.metadata import metadata

MINORS = ("1.31", "1.34", "1.37")
TOOLS = {
    ("ConfigMap", "team-registration"),
    ("Job", "team-registration"),
    ("CronJob", "team-closing"),
    ("Pod", "team-test-kubeflow"),
    ("Pod", "team-test-store"),
}
RUNNER = {(kind, "distillery-runner") for kind in ("ServiceAccount", "Role", "RoleBinding")}
REGISTRAR = {("ServiceAccount", "distillery-registrar")}
RIGHTS = {("Role", "distillery-registrar"), ("RoleBinding", "distillery-registrar")}
ALWAYS = {("ConfigMap", "distillery-settings")} | TOOLS | RUNNER | REGISTRAR
SERVER = {("Deployment", "team-mlflow"), ("Service", "team-mlflow")}
VOLUME = {("PersistentVolumeClaim", "team-mlflow")}
USERS = {("ConfigMap", "team-mlflow-auth")}
EXPECTED = {
    "least": ALWAYS,
    "keys": ALWAYS | {("Secret", "distillery-credentials")},
    "theirs": ALWAYS - {("ConfigMap", "distillery-settings")},
    "no account": {("ConfigMap", "distillery-settings")} | TOOLS,
    "role of a cloud": ALWAYS,
    "plugin": ALWAYS | {("Secret", "kfp-mlflow-credentials")},
    "shared": ALWAYS | RIGHTS,
    "nothing registered": ALWAYS - TOOLS,
    "schedules": ALWAYS | {("CronJob", "team-reconcile"), ("Job", "team-disable-schedules")},
    "dry run": ALWAYS,
    "launcher": ALWAYS | {("ConfigMap", "kfp-launcher")},
    "network": ALWAYS | SERVER | VOLUME | USERS | {("NetworkPolicy", "team-runs")},
    "network anywhere": ALWAYS | {("NetworkPolicy", "team-runs")},
    "limits": ALWAYS | {("ResourceQuota", "team"), ("LimitRange", "team")},
    "priority": ALWAYS | SERVER | VOLUME | USERS | {("PriorityClass", "distillery")},
    "mlflow": ALWAYS | SERVER | VOLUME | USERS,
    "mlflow postgres": ALWAYS | SERVER,
    "mlflow open": ALWAYS | SERVER | VOLUME,
}
MLFLOW = VARIANTS["mlflow"]["mlflow"]
IMAGE = "registry.example.net/team/nets:1.0.0"


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_value_turns_on_its_objects_and_no_others(variant: str) -> None:
    assert set(objects(values(VARIANTS[variant]))) == EXPECTED[variant]


@cache
def check(document: str, minor: str) -> None:
    """Hold an object against a version of Kubernetes, once: variants share most of theirs."""
    kubernetes_validate.validate(json.loads(document), minor, strict=True)


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_every_object(variant: str, minor: str) -> None:
    for document in render(values(VARIANTS[variant])):
        check(json.dumps(document, sort_keys=True), minor)


def test_the_validation_notices_a_field_that_is_none() -> None:
    account = objects(LEAST)["ServiceAccount", "distillery-runner"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**account, "automount": True}, MINORS[0], strict=True)


def test_lint_has_nothing_to_say() -> None:
    found = lint(str(CHART), values=LEAST)
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The fewest values with one changed."""
    found = deepcopy(LEAST)
    place: dict[str, Any] = found
    *above, last = path.split("/")
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("runer", {}, "additional properties 'runer' not allowed"),
        ("settings/values/s3_endpoint", "https://s3.example.net", "additional properties 's3_endpoint' not allowed"),
        ("settings/values/s3_timeout", 30, "at '/settings/values/s3_timeout': got number, want string"),
        ("settings/name", "Their_Settings", "at '/settings/name'"),
        ("settings/name", "a.b", "at '/settings/name'"),
        ("settings/name", "", "at '/settings/name'"),
        ("settings/files", {"a/b": "x"}, "at '/settings/files': additional properties 'a/b' not allowed"),
        ("credentials/values/store", "x", "additional properties 'store' not allowed"),
        ("credentials/values/s3_secret_key", 1, "want string"),
        ("kubeflow/multiUser", "yes", "want boolean"),
        ("runner/readableSecrets", [], "minItems"),
        ("runner/serviceAccount/automount", True, "additional properties 'automount' not allowed"),
        ("registration/schedules", [{**WEEKLY, "cron": "0 3 * * 1"}], "at '/registration/schedules/0/cron'"),
        ("registration/schedules", [{"name": "weekly"}], "missing properties 'pipeline', 'cron', 'no_catchup'"),
        ("registration/schedules", [{**WEEKLY, "params": {}}], "additional properties 'params' not allowed"),
        ("registration/owner", "The Team", "at '/registration/owner'"),
        ("registration/reconcile/schedule", "0 17 * * * *", "at '/registration/reconcile/schedule'"),
        ("closing/schedule", "hourly", "at '/closing/schedule'"),
        ("kubeflow/endpoint", "https://me@kubeflow.example.net", "at '/kubeflow/endpoint'"),
        ("images/registry", "https://registry.example.net", "at '/images/registry'"),
        ("images/table", {"tpu": "registry.example.net/x:1.0.0"}, "additional properties 'tpu' not allowed"),
        ("images/table", {"gpu": "registry.example.net/x:latest"}, "at '/images/table/gpu'"),
        ("launcher/providers", {"azure": {}}, "at '/launcher/providers': additional properties 'azure' not allowed"),
        ("networkPolicy/apiServerPorts", [0], "at '/networkPolicy/apiServerPorts/0'"),
        ("networkPolicy/apiServerCidrs", ["everywhere"], "at '/networkPolicy/apiServerCidrs/0'"),
        ("resourceQuota/hard", {"pods": "many"}, "at '/resourceQuota/hard/pods'"),
        ("limitRange/default", {"memory": -1}, "at '/limitRange/default/memory'"),
        ("priorityClass/value", 2_000_000_000, "at '/priorityClass/value'"),
        ("priorityClass/preemptionPolicy", "Always", "at '/priorityClass/preemptionPolicy'"),
        ("mlflow/image", "mlflow:latest", "at '/mlflow/image'"),
        ("mlflow/artifactsDestination", "/data", "at '/mlflow/artifactsDestination'"),
        ("mlflow/allowedHosts", ["https://mlflow.example.net"], "at '/mlflow/allowedHosts/0'"),
        ("mlflow/resources/claims", [], "additional properties 'claims' not allowed"),
    ],
)
def test_the_schema_refuses(path: str, value: Any, said: str) -> None:
    with pytest.raises(HelmValuesError) as refused:
        render(changed(path, value))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"settings": {"values": None}}, "settings.values.store is missing"),
        (
            {"settings": {"existingConfigMap": "theirs"}},
            "settings.existingConfigMap and settings.values or settings.files exclude each other",
        ),
        (
            {"settings": {"existingConfigMap": "theirs", "values": None, "files": {"ca.crt": "x"}}},
            "settings.existingConfigMap and settings.values or settings.files exclude each other",
        ),
        ({"settings": {"files": {"s3_region": "x"}}}, "settings.files.s3_region is a setting: give it as settings.values.s3_region"),
        (
            {"credentials": {"existingSecret": "theirs", "values": {"s3_access_key": "x"}}},
            "credentials.existingSecret and credentials.values exclude each other",
        ),
        ({"images": None}, "images.registry is missing, and images.table has no cpu"),
        (
            {"images": {"registry": None, "table": {"cpu": IMAGE, "gpu": IMAGE}}},
            "images.registry is missing, and images.table has no tools",
        ),
        ({"registration": {"dryRun": True, "disableOnUninstall": True}}, "registration.dryRun and registration.disableOnUninstall exclude"),
        ({"registration": {"schedules": [WEEKLY, WEEKLY]}}, 'registration.schedules has two that are called "weekly"'),
        ({"launcher": {"create": True}, "kubeflow": {"multiUser": True}}, "launcher.create and kubeflow.multiUser exclude each other"),
        ({"resourceQuota": {"enabled": True}}, "resourceQuota.enabled needs limitRange.enabled"),
        ({"mlflow": {**MLFLOW, "image": ""}}, "mlflow.image is missing"),
        ({"mlflow": {**MLFLOW, "artifactsDestination": ""}}, "mlflow.artifactsDestination is missing"),
        ({"mlflow": {**MLFLOW, "auth": {}}}, "mlflow.auth.existingSecret is missing"),
        ({"mlflow": {**MLFLOW, "auth": {"enabled": False, "existingSecret": "x"}}}, "mlflow.auth.existingSecret is given"),
    ],
)
def test_values_that_exclude_or_need_each_other(given: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmRenderError) as refused:
        render(values(given))
    assert said in str(refused.value)


def test_nothing_is_refused_without_a_reason() -> None:
    assert issubclass(HelmValuesError, HelmError)
    render(values({"credentials": {"existingSecret": "theirs"}, "kubeflow": {"multiUser": True}}))


def test_the_config_map_holds_values_and_files() -> None:
    found = objects(values(VARIANTS["keys"]))
    assert found["ConfigMap", "distillery-settings"]["data"] == {"store": "s3://models/distillery", "ca.crt": "-"}
    assert found["Secret", "distillery-credentials"]["stringData"] == {"s3_access_key": "a", "s3_secret_key": "b"}


def test_the_launcher_reads_its_providers_as_text() -> None:
    data = objects(values(VARIANTS["launcher"]))["ConfigMap", "kfp-launcher"]["data"]
    assert yaml.safe_load(data["providers"]) == VARIANTS["launcher"]["launcher"]["providers"]
    assert data["defaultPipelineRoot"] == "s3://models/kubeflow"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_as_small_a_door_as_it_can_be(variant: str) -> None:
    for name, pod in pods(render(values(VARIANTS[variant]))).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            kept = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == kept, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"]), name


def test_pods_have_the_priority_that_was_made() -> None:
    found = objects(values(VARIANTS["priority"]))
    assert found["PriorityClass", "distillery"]["preemptionPolicy"] == "PreemptLowerPriority"
    assert {pod["priorityClassName"] for pod in pods(list(found.values())).values()} == {"distillery"}
    assert all("priorityClassName" not in pod for pod in pods(render(values(VARIANTS["mlflow"]))).values())


def test_rights_of_run_pods_are_those_of_the_table() -> None:
    role = objects(LEAST)["Role", "distillery-runner"]["rules"]
    assert {(rule["apiGroups"][0], rule["resources"][0]): (rule.get("resourceNames"), rule["verbs"]) for rule in role} == {
        ("", "configmaps"): (["kfp-launcher"], ["get"]),
        ("", "secrets"): (["mlpipeline-minio-artifact", "kfp-mlflow-credentials"], ["get"]),
        ("", "pods"): (None, ["get", "list", "watch"]),
        ("argoproj.io", "workflowtaskresults"): (None, ["create", "patch"]),
    }
    plugin = objects(values(VARIANTS["plugin"]))["Role", "distillery-runner"]["rules"]
    assert plugin[:-1] == role
    assert plugin[-1]["apiGroups"] == ["mlflow.kubeflow.org"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_role_holds_a_wildcard_or_every_secret(variant: str) -> None:
    for (kind, name), role in objects(values(VARIANTS[variant])).items():
        if kind == "Role":
            assert "*" not in str(role["rules"]), name
            assert all(rule.get("resourceNames") for rule in role["rules"] if rule["resources"] == ["secrets"]), name


def test_accounts_are_bound_in_the_namespace_of_the_release() -> None:
    binding = objects(LEAST)["RoleBinding", "distillery-runner"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "distillery-runner", "namespace": NAMESPACE}]
    assert binding["roleRef"]["name"] == "distillery-runner"


def test_run_pods_reach_what_is_named_and_nothing_else() -> None:
    policy = objects(values(VARIANTS["network"]))["NetworkPolicy", "team-runs"]["spec"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "pipeline/runid", "operator": "Exists"}]}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    dns, server, kubeflow, mlflow, extra = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert server == {
        "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}],
        "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    }
    assert [port["port"] for port in kubeflow["ports"]] == [8887, 8888, 8080, 8333, 9000]
    assert kubeflow["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}]
    labels = objects(values(VARIANTS["network"]))["Deployment", "team-mlflow"]["spec"]["template"]["metadata"]["labels"]
    assert mlflow["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert extra == VARIANTS["network"]["networkPolicy"]["extraEgress"][0]


def test_the_limit_range_has_room_for_every_scratch_volume() -> None:
    limits = objects(values(VARIANTS["limits"]))["LimitRange", "team"]["spec"]["limits"][0]
    most = int(limits["default"]["ephemeral-storage"].removesuffix("Gi"))
    assert most > max(int(metadata(step).scratch.removesuffix("Gi")) for step in STEPS)


def server_of(variant: str) -> tuple[list[str], dict[str, Any]]:
    """Arguments and environment of MLflow's container."""
    deployment = objects(values(VARIANTS[variant]))["Deployment", f"{RELEASE}-mlflow"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container["args"], {row["name"]: row.get("value", row.get("valueFrom")) for row in container["env"]}


def test_mlflow_answers_to_its_service_with_and_without_the_port() -> None:
    arguments, _ = server_of("mlflow open")
    (hosts,) = (word.removeprefix("--allowed-hosts=").split(",") for word in arguments if word.startswith("--allowed-hosts="))
    service = ["team-mlflow", "team-mlflow.vision", "team-mlflow.vision.svc", "team-mlflow.vision.svc.cluster.local"]
    assert set(hosts) == {each for name in [*service, "mlflow.example.net"] for each in (name, f"{name}:5000")}
    assert "--app-name=basic-auth" not in arguments


def test_mlflow_keeps_its_database_where_it_was_told() -> None:
    arguments, environment = server_of("mlflow")
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////var/lib/mlflow/mlflow.db"
    assert "--app-name=basic-auth" in arguments
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == {"secretKeyRef": {"name": "mlflow-admin", "key": "admin_password"}}
    assert environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] == {"secretKeyRef": {"name": "mlflow-admin", "key": "flask_secret_key"}}
    _, environment = server_of("mlflow postgres")
    assert environment["MLFLOW_BACKEND_STORE_URI"] == {"secretKeyRef": {"name": "mlflow-database", "key": "uri"}}


def test_mlflow_reads_s3_from_the_same_keys_as_steps() -> None:
    _, environment = server_of("mlflow")
    settings = {"name": "distillery-settings", "optional": True}
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == {"configMapKeyRef": {**settings, "key": "s3_endpoint_url"}}
    assert environment["AWS_DEFAULT_REGION"] == {"configMapKeyRef": {**settings, "key": "s3_region"}}
    secret = {"name": "distillery-credentials", "optional": True}
    assert environment["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {**secret, "key": "s3_secret_key"}}
    assert not [name for name in environment if name.startswith("MLFLOW_TRACKING_")], "a server has no tracking server"


def test_the_notes_say_how_to_compile_for_other_names() -> None:
    assert "compile with" not in notes(LEAST)
    theirs = notes(values(VARIANTS["theirs"]))
    assert "compile with --settings their-settings --credentials their-keys" in theirs
    assert "No Secret was named" in notes(LEAST)
    assert "No Secret was named" not in theirs
    assert "http://team-mlflow.vision.svc.cluster.local:5000" in notes(values(VARIANTS["mlflow"]))
    assert "Schedule      weekly (generative-distillation): 0 0 3 * * 1" in notes(values(VARIANTS["schedules"]))
    assert "nothing, it was a dry run" in notes(values(VARIANTS["dry run"]))
