"""What Kubeflow Pipelines 2.17 takes: the requests that the registrar makes, field by field, by its published interface.

`KINDS` and `OPERATIONS` say what the interface says: names, types, choices, and what only the server writes. `rules` says what it does not
say and its code does: which requests it takes and then understands otherwise than they were meant.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a field may hold.

    Attributes:
        type: string, boolean, integer, long (a whole number as text), time, object, map (of objects) or texts (a map of texts).
        choices: the only values.
        fields: of an object of fixed fields.
        output: only the server writes it.
        needed: a request without it is refused.
    """

    type: str = "string"
    choices: tuple[str, ...] = ()
    fields: Mapping[str, "Kind"] = field(default_factory=dict)
    output: bool = False
    needed: bool = False


_TEXT, _OUT, _NEED = Kind(), Kind(output=True), Kind(needed=True)
_OUT_OBJECT = Kind("object", output=True)
_REFERENCE = Kind("object", fields={"pipeline_id": _NEED, "pipeline_version_id": _TEXT})
_RUNTIME = Kind("object", fields={"parameters": Kind("object"), "pipeline_root": _TEXT})
_CRON = Kind("object", fields={"start_time": Kind("time"), "end_time": Kind("time"), "cron": _TEXT})
_PERIOD = Kind("object", fields={"start_time": Kind("time"), "end_time": Kind("time"), "interval_second": Kind("long")})
_TRIGGER = Kind("object", fields={"cron_schedule": _CRON, "periodic_schedule": _PERIOD}, needed=True)

KINDS: dict[str, dict[str, Kind]] = {
    "V2beta1Pipeline": {
        "pipeline_id": _OUT,
        "display_name": _TEXT,
        "name": _NEED,
        "description": _TEXT,
        "created_at": _OUT,
        "namespace": _TEXT,
        "error": _OUT_OBJECT,
        "tags": Kind("texts"),
    },
    "V2beta1Experiment": {
        "experiment_id": _OUT,
        "display_name": _NEED,
        "description": _TEXT,
        "created_at": _OUT,
        "namespace": _TEXT,
        "storage_state": _OUT,
        "last_run_created_at": _OUT,
    },
    "V2beta1RecurringRun": {
        "recurring_run_id": _OUT,
        "display_name": _NEED,
        "description": _TEXT,
        "pipeline_version_id": _TEXT,
        "pipeline_spec": Kind("object"),
        "pipeline_version_reference": _REFERENCE,
        "runtime_config": _RUNTIME,
        "service_account": _TEXT,
        "max_concurrency": Kind("long", needed=True),
        "trigger": _TRIGGER,
        "mode": Kind(choices=("MODE_UNSPECIFIED", "ENABLE", "DISABLE"), needed=True),
        "created_at": _OUT,
        "updated_at": _OUT,
        "status": _OUT,
        "error": _OUT_OBJECT,
        "no_catchup": Kind("boolean"),
        "namespace": _OUT,
        "experiment_id": _TEXT,
        "plugins_input": Kind("map"),
    },
    "V2beta1Run": {
        "experiment_id": _TEXT,
        "run_id": _OUT,
        "display_name": _NEED,
        "storage_state": _OUT,
        "description": _TEXT,
        "pipeline_version_id": _TEXT,
        "pipeline_spec": Kind("object"),
        "pipeline_version_reference": _REFERENCE,
        "runtime_config": Kind("object", fields=_RUNTIME.fields, needed=True),
        "service_account": _TEXT,
        "created_at": _OUT,
        "scheduled_at": _OUT,
        "finished_at": _OUT,
        "state": _OUT,
        "error": _OUT_OBJECT,
        "run_details": _OUT_OBJECT,
        "recurring_run_id": _TEXT,
        "state_history": _OUT_OBJECT,
        "plugins_input": Kind("map"),
        "plugins_output": _OUT_OBJECT,
    },
}
"""Fields of what is sent, by the name that Kubeflow's own client gives it."""

_PAGED = ("page_token", "page_size", "sort_by", "filter")
POLICIES = ("DELETE_PROPAGATION_POLICY_UNSPECIFIED", "FOREGROUND", "BACKGROUND", "ORPHAN")


@dataclass(frozen=True)
class Operation:
    """One request.

    Attributes:
        name: of what the fake does.
        method: of HTTP.
        path: with {} for an id.
        query: parameters that it knows.
        body: a key of `KINDS`, or "" for none.
        right: resource and verb that the server asks Kubernetes for.
    """

    name: str
    method: str
    path: str
    query: tuple[str, ...] = ()
    body: str = ""
    right: str = ""

    def match(self, method: str, path: str) -> tuple[str, ...] | None:
        """The ids in a path, None where it is another request."""
        pattern = "([^/:]+)".join(re.escape(part) for part in self.path.split("{}"))
        found = re.fullmatch("/apis/v2beta1" + pattern, path) if method == self.method else None
        return found.groups() if found else None


OPERATIONS = (
    Operation("create_pipeline", "POST", "/pipelines", body="V2beta1Pipeline", right="pipelines create"),
    Operation("get_pipeline_by_name", "GET", "/pipelines/names/{}", ("namespace",), right="pipelines get"),
    Operation(
        "upload_version",
        "POST",
        "/pipelines/upload_version",
        ("name", "display_name", "pipelineid", "description", "tags"),
        right="pipelines create",
    ),
    Operation("list_versions", "GET", "/pipelines/{}/versions", _PAGED, right="pipelines list"),
    Operation("get_version", "GET", "/pipelines/{}/versions/{}", right="pipelines get"),
    Operation("list_experiments", "GET", "/experiments", ("namespace", *_PAGED), right="experiments list"),
    Operation("create_experiment", "POST", "/experiments", body="V2beta1Experiment", right="experiments create"),
    Operation("list_recurring_runs", "GET", "/recurringruns", ("namespace", "experiment_id", *_PAGED), right="jobs list"),
    Operation("create_recurring_run", "POST", "/recurringruns", body="V2beta1RecurringRun", right="jobs create"),
    Operation("delete_recurring_run", "DELETE", "/recurringruns/{}", ("propagation_policy",), right="jobs delete"),
    Operation("enable_recurring_run", "POST", "/recurringruns/{}:enable", right="jobs enable"),
    Operation("disable_recurring_run", "POST", "/recurringruns/{}:disable", right="jobs disable"),
    Operation("list_runs", "GET", "/runs", ("namespace", "experiment_id", *_PAGED), right="runs list"),
    Operation("create_run", "POST", "/runs", ("experiment_id",), body="V2beta1Run", right="runs create"),
    Operation("get_run", "GET", "/runs/{}", ("experiment_id",), right="runs get"),
)


def faults_of_body(kind: str, body: Any) -> Iterator[str]:
    """What the interface does not allow in what is sent."""
    yield from _faults(Kind("object", fields=KINDS[kind]), body, kind)


def faults_of_query(operation: Operation, query: Mapping[str, str]) -> Iterator[str]:
    """What it does not allow in the query."""
    for name, value in query.items():
        if name not in operation.query:
            yield f"{operation.name} has no parameter {name!r}"
        if name == "page_size" and not re.fullmatch(r"[1-9]\d{0,8}", value):
            yield f"page_size = {value!r}"
        if name == "propagation_policy" and value not in POLICIES:
            yield f"propagation_policy = {value!r}"


def _faults(kind: Kind, value: Any, where: str) -> Iterator[str]:
    types: dict[str, type | tuple[type, ...]] = {"boolean": bool, "object": dict, "map": dict, "texts": dict}
    if kind.output:
        yield f"{where} is the server's to write"
    elif not isinstance(value, types.get(kind.type, str)):
        yield f"{where} = {value!r} is no {kind.type}"
    elif kind.type == "long" and not re.fullmatch(r"-?\d{1,19}", value):
        yield f"{where} = {value!r} is no whole number"
    elif kind.choices and value not in kind.choices:
        yield f"{where} = {value!r} is none of {kind.choices}"
    elif kind.type == "map":
        yield from (f"{where}.{name} = {inner!r} is no object" for name, inner in value.items() if not isinstance(inner, dict))
    elif kind.type == "texts":
        yield from (f"{where}.{name} = {inner!r} is no text" for name, inner in value.items() if not isinstance(inner, str))
    elif kind.fields:
        yield from (f"{where} has no field {name!r}" for name in value if name not in kind.fields)
        yield from (f"{where}.{name} is missing" for name, inner in kind.fields.items() if inner.needed and not value.get(name))
        for name, inner in kind.fields.items():
            if name in value:
                yield from _faults(inner, value[name], f"{where}.{name}")


def rules(operation: Operation, query: Mapping[str, str], body: Json) -> Iterator[str]:
    """What the server takes and understands otherwise than it was meant."""
    if operation.name == "delete_recurring_run" and query.get("propagation_policy") != "ORPHAN":
        yield "without ORPHAN the schedule's run that works now is deleted with it"
    if operation.body not in ("V2beta1Run", "V2beta1RecurringRun"):
        return
    reference = body.get("pipeline_version_reference") or {}
    if not (reference.get("pipeline_id") and reference.get("pipeline_version_id")):
        yield "without both ids the newest version is run"
    if set(body.get("plugins_input", {}).get("mlflow", {})) - {"experiment_name", "experiment_id", "disabled"}:
        yield "the plugin refuses unknown fields"
    if operation.body == "V2beta1RecurringRun":
        yield from _rules_of_schedules(body)


def _rules_of_schedules(body: Json) -> Iterator[str]:
    cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
    if len(cron.split()) != 6:
        yield f"cron = {cron!r} is read shifted"
    if "no_catchup" not in body:
        yield "without no_catchup everything missed follows"
    if body.get("max_concurrency") != "1":
        yield "two runs of a schedule at once"
    if not body.get("plugins_input"):
        yield "without plugins_input the runs bypass the plugins"
    if "[[" in str(body.get("runtime_config")):
        yield "a macro in a value"
    if body.get("mode") != "DISABLE":
        yield "it begins runs while the one that it replaces still does"
