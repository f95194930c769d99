"""Kubeflow's API for tests, in memory: every request is held against `kubeflow_table`, lists have two things a page, and it can fail.

It is asked in this process (`send`) or over HTTP (`serve`). What a request breaks is answered with 400 and kept in `violations`.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

import yaml

from distillery_kfp.pipelines.registrar.client import Answer, Request
from kubeflow_table import OPERATIONS, Json, Operation, faults_of_body, faults_of_query, rules

PAGE = 2
LARGEST_PARAMETERS = 10_000
_TYPES = {"STRING": str, "BOOLEAN": bool, "LIST": list, "STRUCT": dict, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float)}
Failure = Literal["", "before", "after", "lost"]
"""An error instead of the work, after it, or no answer after it."""


class Refused(Exception):
    """A request that is answered with a status."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@cache
def _documents(data: bytes) -> tuple[Json, ...]:
    return tuple(yaml.load_all(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@dataclass
class FakeKubeflow:
    """One server.

    Attributes:
        tokens: that it takes; none asks for none.
        multi_user: it asks for a namespace.
        failure: says of the n-th request whether it fails.
        before: called with its number before each request, outside of the server's lock.
        pipelines, versions, experiments, recurring, runs: what it holds by id.
        made: names of the operations in order, failed ones too.
        violations: what requests broke.
    """

    tokens: tuple[str, ...] = ()
    multi_user: bool = False
    failure: Callable[[int, str], Failure] = lambda number, name: ""
    before: Callable[[int], None] = lambda number: None
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    experiments: dict[str, Json] = field(default_factory=dict)
    recurring: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    most_enabled: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._clock = 0
        self.ids: Callable[[], str] = lambda: str(uuid4())

    # -- how it is asked ------------------------------------------------------------------------------------------------------------

    def send(self, request: Request) -> Answer:
        """Answer a request of this process."""
        self.before(len(self.made))
        with self._lock:
            return self._answer(request)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answer over HTTP, at the address that it gives."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers.items()), self.rfile.read(size) if size else None)
                try:
                    answer = fake.send(request)
                except ConnectionError:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            do_GET = do_POST = do_DELETE = _do

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _answer(self, request: Request) -> Answer:
        try:
            return Answer(200, json.dumps(self._do(request)).encode())
        except Refused as refused:
            said = {"error": str(refused), "code": refused.status, "message": str(refused)}
            return Answer(refused.status, json.dumps(said).encode())

    def _do(self, request: Request) -> Json:
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        found = [(operation, ids) for operation in OPERATIONS if (ids := operation.match(request.method, path)) is not None]
        if not found:
            raise self._broken(f"there is no {request.method} {path}")
        operation, ids = found[0]
        failure = self.failure(len(self.made), operation.name)
        self.made.append(operation.name)
        if failure == "before":
            raise Refused(503, "upstream connect error")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if self.tokens and headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "Request header error: there is no user identity header.")
        body = self._body(operation, request, headers)
        broken = [*faults_of_query(operation, query), *(faults_of_body(operation.body, body) if operation.body else ())]
        broken = broken or list(rules(operation, query, body))
        if broken:
            raise self._broken("; ".join(broken))
        answer = getattr(self, f"_{operation.name}")(query, body, *ids)
        self._watch()
        if failure == "after":
            raise Refused(504, "upstream request timeout")
        if failure == "lost":
            raise ConnectionResetError("Connection reset by peer")
        return dict(answer)

    def _body(self, operation: Operation, request: Request, headers: Mapping[str, str]) -> Json:
        if operation.name == "upload_version":
            edge = re.search(r"boundary=(\S+)", headers["content-type"])
            assert edge is not None
            parts = (request.data or b"").split(f"--{edge[1]}".encode())
            head, _, data = parts[1].partition(b"\r\n\r\n")
            if b'name="uploadfile"' not in head or len(parts) != 3:
                raise self._broken("no file in the form")
            return {"data": data.removesuffix(b"\r\n")}
        return json.loads(request.data) if request.data else {}

    def _broken(self, said: str) -> Refused:
        self.violations.append(said)
        return Refused(400, said)

    def _watch(self) -> None:
        """Keep the most that were enabled at once under one name."""
        enabled = [run["display_name"] for run in self.recurring.values() if run["mode"] == "ENABLE"]
        for name in enabled:
            self.most_enabled[name] = max(self.most_enabled.get(name, 0), enabled.count(name))

    # -- what it does ---------------------------------------------------------------------------------------------------------------

    def _create_pipeline(self, query: Json, body: Json) -> Json:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,126}[a-z0-9])?", body["name"]):
            raise self._broken(f"pipeline name {body['name']!r}")
        self._in_namespace(body)
        if any(self._key(body) == self._key(found) for found in self.pipelines.values()):
            raise Refused(409, f"The name {body['name']} already exist.")
        return self._keep(self.pipelines, "pipeline_id", body)

    def _get_pipeline_by_name(self, query: Json, body: Json, name: str) -> Json:
        self._in_namespace(query)
        key = self._key({"name": name, **query})
        found = [pipeline for pipeline in self.pipelines.values() if self._key(pipeline) == key]
        if not found:
            raise Refused(404, f"Pipeline {name} not found.")
        return found[0]

    def _upload_version(self, query: Json, body: Json) -> Json:
        pipeline = self._get(self.pipelines, query.get("pipelineid", ""))
        if not 0 < len(query.get("name", "")) <= 127 or len(body["data"]) > 32 * 2**20:
            raise self._broken(f"version {query.get('name')!r} of {len(body['data'])} bytes")
        same = [found for found in self.versions.values() if found["pipeline_id"] == pipeline["pipeline_id"]]
        if any(found["name"] == query["name"] for found in same):
            raise Refused(409, "Failed to create a pipeline version")
        spec, *platform = _documents(body["data"])
        told = {name: query[name] for name in ("name", "display_name", "description") if name in query}
        whole = {"pipeline_spec": spec, **({"platform_spec": platform[0]} if platform else {})}
        return self._keep(self.versions, "pipeline_version_id", {"pipeline_id": pipeline["pipeline_id"], **told, "pipeline_spec": whole})

    def _list_versions(self, query: Json, body: Json, pipeline: str) -> Json:
        self._get(self.pipelines, pipeline)
        return self._page("pipeline_versions", {k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline}, query)

    def _get_version(self, query: Json, body: Json, pipeline: str, version: str) -> Json:
        return self._get({k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline}, version)

    def _create_experiment(self, query: Json, body: Json) -> Json:
        self._in_namespace(body)
        if any(self._key(body) == self._key(found) for found in self.experiments.values()):
            raise Refused(409, "The name already exist.")
        return self._keep(self.experiments, "experiment_id", {**body, "storage_state": "AVAILABLE"})

    def _list_experiments(self, query: Json, body: Json) -> Json:
        self._in_namespace(query)
        return self._page("experiments", self.experiments, query)

    def _create_recurring_run(self, query: Json, body: Json) -> Json:
        self._runnable(body)
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise self._broken("max_concurrency")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body["mode"]]
        return self._keep(self.recurring, "recurring_run_id", {**body, "status": status})

    def _list_recurring_runs(self, query: Json, body: Json) -> Json:
        self._in_namespace(query)
        return self._page("recurringRuns", self.recurring, query)

    def _delete_recurring_run(self, query: Json, body: Json, identity: str) -> Json:
        self._get(self.recurring, identity)
        del self.recurring[identity]
        return {}

    def _enable_recurring_run(self, query: Json, body: Json, identity: str) -> Json:
        self._get(self.recurring, identity).update(mode="ENABLE", status="ENABLED")
        return {}

    def _disable_recurring_run(self, query: Json, body: Json, identity: str) -> Json:
        self._get(self.recurring, identity).update(mode="DISABLE", status="DISABLED")
        return {}

    def _create_run(self, query: Json, body: Json) -> Json:
        self._runnable(body)
        return self._keep(self.runs, "run_id", {**body, "state": "PENDING", "storage_state": "AVAILABLE"})

    def _list_runs(self, query: Json, body: Json) -> Json:
        self._in_namespace(query)
        kept = {k: v for k, v in self.runs.items() if query.get("experiment_id", v["experiment_id"]) == v["experiment_id"]}
        return self._page("runs", kept, query)

    def _get_run(self, query: Json, body: Json, identity: str) -> Json:
        return self._get(self.runs, identity)

    # -- what these share -----------------------------------------------------------------------------------------------------------

    def _in_namespace(self, said: Json) -> None:
        if self.multi_user and not said.get("namespace"):
            raise self._broken("a namespace is needed in multi-user mode")

    def _key(self, said: Json) -> tuple[str, str]:
        return said.get("namespace", "") if self.multi_user else "", said.get("name") or said["display_name"]

    def _keep(self, table: dict[str, Json], name: str, body: Json) -> Json:
        self._clock += 1
        identity = self.ids()
        table[identity] = {**body, name: identity, "created_at": f"2026-01-01T00:{self._clock // 120:02d}:{self._clock // 2 % 60:02d}Z"}
        return table[identity]

    def _get(self, table: Mapping[str, Json], identity: str) -> Json:
        if identity not in table:
            raise Refused(404, f"{identity} not found.")
        return table[identity]

    def _page(self, name: str, table: Mapping[str, Json], query: Json) -> Json:
        rows = sorted(table.values(), key=lambda row: row["created_at"], reverse=query.get("sort_by", "").endswith(" desc"))
        if query.get("filter"):
            for predicate in json.loads(query["filter"])["predicates"]:
                if predicate["operation"] != "EQUALS" or predicate["key"] not in ("display_name", "name"):
                    raise self._broken(f"filter {predicate}")
                rows = [row for row in rows if row[predicate["key"]] == predicate["string_value"]]
        token = query.get("page_token", "")
        if token and not re.fullmatch(r"page-\d+", token):
            raise self._broken(f"page_token = {token!r}")
        start = int(token.removeprefix("page-") or 0)
        size = min(PAGE, int(query.get("page_size", PAGE)))
        more = {"next_page_token": f"page-{start + size}"} if start + size < len(rows) else {}
        return {**({name: rows[start : start + size]} if rows[start : start + size] else {}), "total_size": len(rows), **more}

    def _runnable(self, body: Json) -> None:
        """What a run is of is there, and its values fit the form."""
        self._get(self.experiments, body.get("experiment_id", ""))
        reference = body["pipeline_version_reference"]
        version = self._get_version({}, {}, reference["pipeline_id"], reference["pipeline_version_id"])
        form = version["pipeline_spec"]["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body["runtime_config"].get("parameters", {})
        wrong = [name for name in given if name not in form]
        wrong += [name for name, row in form.items() if name not in given and "defaultValue" not in row and not row.get("isOptional")]
        for name in set(given) & set(form):
            kind = form[name]["parameterType"]
            fits = isinstance(given[name], _TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(given[name], bool))
            if not fits or given[name] not in form[name].get("literals", [given[name]]):
                wrong.append(name)
        if wrong or len(json.dumps(given)) > LARGEST_PARAMETERS:
            raise self._broken(f"parameters {sorted(wrong)}, {len(json.dumps(given))} bytes")
