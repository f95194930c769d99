"""The runs of a store: what `runs/<id>/run.json` and the evaluation beside it say of them, and how each of them stands."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from distillery.config import canonical_json
from distillery.engine.locks import holder
from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.provenance import check_format, load_json
from distillery.storage import Store

RUN_FORMAT, RUN_VERSION = "distillery-run", 1

Standing = Literal["finished", "running", "stopped", "failed", "superseded", "open", "damaged"]
"""superseded: stopped or failed, and an equal run finished since; open: no runner noted how it ended, as on a cluster."""

Noted = Literal["running", "stopped", "failed", "finished"]

LOCK = "locks/run.lock"
"""Held in a workspace for as long as a run works in it."""


@dataclass(frozen=True)
class RunState:
    """How far the runner on some machine brought a run.

    Attributes:
        name: what it noted last.
        host: that machine.
        process: the runner.
        workspace: its local folder.
        at: when it noted it.
        message: the sentence that a failed run ended with.
    """

    name: Noted
    host: str = ""
    process: int = 0
    workspace: str = ""
    at: str = ""
    message: str = ""

    @classmethod
    def here(cls, name: Noted, workspace: Path, message: str = "") -> "RunState":
        """The state of a run of this process, now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(name=name, host=platform.node(), process=os.getpid(), workspace=str(workspace), at=now, message=message)

    @classmethod
    def parse(cls, value: object) -> "RunState | None":
        """What a record holds under `state`; None for anything else than was written there, as newer code may."""
        known = {part.name for part in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != known or value["name"] not in get_args(Noted):
            return None
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    @property
    def is_alive(self) -> bool:
        """Whether the runner still works; one on another machine is believed."""
        if self.name != "running":
            return False
        return self.host != platform.node() or holder(Path(self.workspace, LOCK)) == self.process


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        id: names it.
        document: its `run.json`, empty where that is damaged.
        evaluation: its `evaluation.json`, empty where there is none.
        standing: how it stands.
        successor: the finished run that made a superseded one needless.
    """

    id: str
    document: Mapping[str, Any]
    standing: Standing
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    successor: str = ""

    @property
    def is_open(self) -> bool:
        """Whether somebody may still go on with it."""
        return self.standing in ("running", "stopped", "failed", "open", "damaged")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved recipe."""
        return dict(self._provenance.get("config", {}))

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the run form."""
        return dict(self.document.get("parameters", {}))

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        sections = self.document.get("sections", {}).values()
        return next((str(section["recipe"]) for section in sections if "recipe" in section), "")

    @property
    def seed(self) -> int:
        """Of every random stream."""
        return int(self._provenance.get("seeds", {}).get("run", 0))

    @property
    def teacher_sha256(self) -> str:
        """The teacher's bundle."""
        return str(self._provenance.get("inputs", {}).get("teacher", ""))

    @property
    def code_version(self) -> str:
        """Of the code that planned it."""
        return str(self._provenance.get("code_version", ""))

    @property
    def results(self) -> dict[str, Any]:
        """Where the student, the set, the evaluation and the page lie; empty before the end."""
        return dict(self.document.get("results", {}))

    @cached_property
    def state(self) -> RunState | None:
        """What its runner noted; None where none did."""
        return RunState.parse(self.document.get("state"))

    @property
    def began(self) -> str:
        """When, as ISO text in UTC."""
        return str(self.document.get("began") or self.document.get("planned", ""))

    @property
    def seconds(self) -> float:
        """How long its last stretch took, 0 before the end."""
        return float(self.document.get("seconds", 0.0))

    def score(self, *path: str) -> float | None:
        """A number of the evaluation, None where it has none; labels are needed for all but the agreement."""
        value: Any = self.evaluation
        if path[0] != "agreement" and not self.evaluation.get("labelled"):
            return None
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    def to_json(self, uri: str) -> dict[str, Any]:
        """What programs read of it; `uri` is the store's."""
        places: dict[str, Any] = {name: f"{uri}/{self.results[name]}" for name in ("student", "evaluation", "page") if name in self.results}
        return {
            "run": self.id,
            "recipe": self.recipe,
            "seed": self.seed,
            "state": self.standing,
            "successor": self.successor,
            "message": self.state.message if self.state else "",
            "pipeline": self.document.get("pipeline", ""),
            "began": self.began,
            "seconds": self.seconds,
            "host": self.state.host if self.state else self.document.get("host", ""),
            "teacher": {"uri": self.parameters.get("teacher_uri", ""), "sha256": self.teacher_sha256},
            "student_top1": self.score("student", "accuracy", "top1"),
            "teacher_top1": self.score("teacher", "accuracy", "top1"),
            "agreement": self.score("agreement", "rate"),
            "set": self.results.get("dataset", {}).get("uri", ""),
            **places,
        }

    @property
    def _provenance(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document.get("provenance", {})
        return found


def list_runs(store: Store, keys: Sequence[str] | None = None) -> list[Run]:
    """Every run of a store, the oldest first.

    Args:
        store: of the runs.
        keys: those of the store below `runs`, where the caller has them.
    """
    keys = store.list("runs") if keys is None else keys
    names = sorted({parts[1] for parts in (key.split("/") for key in keys) if len(parts) == 3 and parts[2] == "run.json"})
    read = {name: _read(store, f"runs/{name}/run.json") for name in names}
    documents = {name: document for name, document in read.items() if document is not None}
    finished = {_work(document): name for name, document in documents.items() if "results" in document}
    present = set(keys)
    runs = []
    for name, document in documents.items():
        standing = stand(document)
        successor = finished.get(_work(document), "") if standing in ("stopped", "failed") else ""
        report = f"runs/{name}/evaluation.json"
        evaluation = _read(store, report) if report in present and standing == "finished" else None
        runs.append(Run(name, document, "superseded" if successor else standing, evaluation or {}, successor))
    return sorted(runs, key=lambda run: (run.began, run.id))


def find_run(store: Store, name: str) -> Run:
    """The run of that id, or the only one whose id begins so; `last` is the newest.

    Raises:
        MissingResourceError: there is none.
        ConfigError: several begin so.
    """
    runs = list_runs(store)
    found = runs[-1:] if name == "last" else [run for run in runs if run.id == name] or [run for run in runs if run.id.startswith(name)]
    if not found or not name:
        raise MissingResourceError(f"There is no run {name!r} in the store {store.uri!r}: `distillery runs --store {store.uri}` lists all.")
    if len(found) > 1:
        raise ConfigError(f"{name!r} may be any of {', '.join(run.id for run in found[:4])}: give more of its id.")
    return found[0]


def stand(document: Mapping[str, Any]) -> Standing:
    """How a run stands by its own record, whatever other runs did."""
    if not document:
        return "damaged"
    if "results" in document:
        return "finished"
    state = RunState.parse(document.get("state"))
    if state is None or state.name == "finished":
        return "open"
    return "running" if state.is_alive else "failed" if state.name == "failed" else "stopped"


def _work(document: Mapping[str, Any]) -> str:
    """Equal for runs of which each makes the others needless; how their recipes are called does not matter."""
    sections = {
        step: {name: value for name, value in section.items() if name != "recipe"} for step, section in document.get("sections", {}).items()
    }
    inputs = {name: document.get("parameters", {}).get(name, "") for name in ("eval_data_uri", "mlflow_model_name")}
    return canonical_json({"sections": sections, **inputs})


def _read(store: Store, key: str) -> dict[str, Any] | None:
    """A document that is looked at among others: empty where it is damaged or of newer code, None where it is gone by now."""
    try:
        data = store.read(key)
    except MissingResourceError:
        return None
    try:
        document = load_json(data, key)
        if key.endswith("/run.json"):
            check_format(document, RUN_FORMAT, RUN_VERSION, key)
    except DistilleryError:
        return {}
    return document
