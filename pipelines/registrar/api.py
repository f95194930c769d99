"""The calls of Kubeflow's API (v2beta1, Kubeflow Pipelines 2.17) that the registrar makes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from distillery.errors import MissingResourceError
from distillery_kfp.pipelines.registrar.client import UNSURE, Client

Document = dict[str, Any]
"""What the API says of one thing, by the names of its fields."""

_ROOT = "/apis/v2beta1"
_PAGE = 100
CONFLICT, GONE = 409, 404
OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States of runs that will have no other, unless somebody retries them."""


RIGHTS: dict[str, dict[str, tuple[str, ...]]] = {
    "upload": {"pipelines": ("create", "get", "list")},
    "schedule": {
        "pipelines": ("create", "get", "list"),
        "experiments": ("create", "list"),
        "jobs": ("create", "delete", "disable", "enable", "list"),
    },
    "submit": {"pipelines": ("create", "get", "list"), "experiments": ("create", "list"), "runs": ("create", "get", "list")},
    "cluster-runs": {"experiments": ("list",), "runs": ("get", "list")},
}
"""Verbs on resources of the group pipelines.kubeflow.org that a command's account needs where Kubeflow asks for one; jobs are schedules."""


class KubeflowApi:
    """The API of one server, in one namespace."""

    def __init__(self, client: Client) -> None:
        """Speak through `client`."""
        self.client = client
        self.namespace = client.access.namespace

    def pipeline(self, name: str) -> Document | None:
        """The pipeline of that name, None where there is none."""
        reply = self.client.call("GET", f"{_ROOT}/pipelines/names/{quote(name, safe='')}", {"namespace": self.namespace}, expected=(GONE,))
        return None if reply.status == GONE else reply.document

    def create_pipeline(self, name: str, description: str) -> Document | None:
        """Make a pipeline without versions; None where there is one of that name already."""
        body = {"name": name, "display_name": name, "description": description, **self._here()}
        reply = self.client.call("POST", f"{_ROOT}/pipelines", body=body, expected=(CONFLICT,))
        return None if reply.status == CONFLICT else reply.document

    def versions(self, pipeline: str) -> Iterator[Document]:
        """Every version of a pipeline, the newest first."""
        return self._list(f"{_ROOT}/pipelines/{quote(pipeline, safe='')}/versions", "pipeline_versions", {"sort_by": "created_at desc"})

    def upload_version(self, pipeline: str, name: str, data: bytes, description: str) -> Document | None:
        """Upload a version; None where there is one of that name already."""
        query = {"name": name, "display_name": name, "pipelineid": pipeline, "description": description}
        path = f"{_ROOT}/pipelines/upload_version"
        reply = self.client.call("POST", path, query, file=(f"{name}.yaml", data), expected=(CONFLICT,))
        return None if reply.status == CONFLICT else reply.document

    def experiment(self, name: str) -> Document | None:
        """The experiment of that name, None where there is none."""
        query = {"namespace": self.namespace, "filter": _equals("display_name", name)}
        return next(
            (found for found in self._list(f"{_ROOT}/experiments", "experiments", query) if found.get("display_name") == name), None
        )

    def create_experiment(self, name: str) -> Document | None:
        """Make an experiment; None where there is one of that name already."""
        body = {"display_name": name, **self._here()}
        reply = self.client.call("POST", f"{_ROOT}/experiments", body=body, expected=(CONFLICT,))
        return None if reply.status == CONFLICT else reply.document

    def recurring_runs(self) -> Iterator[Document]:
        """Every recurring run of the namespace, of whatever experiment."""
        return self._list(f"{_ROOT}/recurringruns", "recurringRuns", {"namespace": self.namespace})

    def create_recurring_run(self, body: Mapping[str, Any]) -> Document | None:
        """Make a recurring run, of which several may have one name; None where it is not known whether it was made."""
        reply = self.client.call("POST", f"{_ROOT}/recurringruns", body=body, repeat=False)
        return None if reply.status == UNSURE else reply.document

    def delete_recurring_run(self, identity: str) -> None:
        """Delete a recurring run, if it is there; runs that it has begun go on."""
        # without the policy Kubernetes deletes the workflows that it owns, and with them a run that has worked for days
        query = {"propagation_policy": "ORPHAN"}
        self.client.call("DELETE", f"{_ROOT}/recurringruns/{quote(identity, safe='')}", query, expected=(GONE,))

    def switch_recurring_run(self, identity: str, enabled: bool) -> None:
        """Enable or disable a recurring run, if it is there."""
        verb = "enable" if enabled else "disable"
        self.client.call("POST", f"{_ROOT}/recurringruns/{quote(identity, safe='')}:{verb}", expected=(GONE,))

    def version(self, pipeline: str, version: str) -> Document | None:
        """A version by its id, None where there is none."""
        path = f"{_ROOT}/pipelines/{quote(pipeline, safe='')}/versions/{quote(version, safe='')}"
        reply = self.client.call("GET", path, expected=(GONE,))
        return None if reply.status == GONE else reply.document

    def runs(self, experiment: str = "") -> Iterator[Document]:
        """Every run of an experiment, the newest first; "" takes those of the whole namespace."""
        query = {"namespace": self.namespace, "experiment_id": experiment, "sort_by": "created_at desc"}
        return self._list(f"{_ROOT}/runs", "runs", query)

    def run(self, identity: str) -> Document | None:
        """A run by its id, None where there is none."""
        reply = self.client.call("GET", f"{_ROOT}/runs/{quote(identity, safe='')}", expected=(GONE,))
        return None if reply.status == GONE else reply.document

    def create_run(self, body: Mapping[str, Any]) -> Document | None:
        """Begin a run, of which several may have one name; None where it is not known whether it was begun."""
        reply = self.client.call("POST", f"{_ROOT}/runs", body=body, repeat=False)
        return None if reply.status == UNSURE else reply.document

    def _here(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _list(self, path: str, field: str, query: Mapping[str, str]) -> Iterator[Document]:
        token, seen = "", set()
        while True:
            page = self.client.call("GET", path, {**query, "page_size": _PAGE, "page_token": token}).document
            yield from page.get(field) or ()
            token = str(page.get("next_page_token") or "")
            if not token:
                return
            if token in seen:
                raise MissingResourceError(f"Kubeflow's API gives the same page of {path} again and again: look at its log.")
            seen.add(token)


def _equals(field: str, value: str) -> str:
    predicate = {"operation": "EQUALS", "key": field, "string_value": value}
    return json.dumps({"predicates": [predicate]}, separators=(",", ":"))
