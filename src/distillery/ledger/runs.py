"""The runs of a store: what `runs/<id>/run.json` and the evaluation beside it say of them, and how each of them stands."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from distillery.config import canonical_json
from distillery.documents import Document, Fields, Format, read_any
from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.provenance import Provenance
from distillery.storage import Store
from distillery.storage.locks import holder
from distillery.workbench.lineage import evaluation_of, find_record, page_of, read_records, set_of

RUN_FORMAT = Format("distillery-run", 3, "copy it back from where it is whole, or start the run again")

_SET = re.compile(r"(?:^|(?<=/))sets/[0-9a-f]{64}$")

Standing = Literal["finished", "running", "stopped", "failed", "superseded", "open", "damaged"]
"""finished: its last step has noted the results; superseded: stopped or failed, and an equal run finished since; open: no runner notes
how it goes, as on a cluster, and it has not finished yet."""

Noted = Literal["running", "stopped", "failed", "finished"]


class _Said(Fields):
    pipeline: str
    parameters: dict[str, Any]
    sections: dict[str, dict[str, Any] | list[dict[str, Any]]]
    planned: str
    began: str = ""
    seconds: float = 0.0
    environment: dict[str, Any] = Field(default_factory=dict)
    step_versions: dict[str, Any] = Field(default_factory=dict)
    results: dict[str, Any] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)
    recipe: str = ""


PLACES = ("student", "statistics", "evaluation", "page")
"""What may lie where in the store, by a run's results."""
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
        store: where the runner saw the record; elsewhere it is a copy, at which nobody works. "" where that was not noted.
    """

    name: Noted
    host: str = ""
    process: int = 0
    workspace: str = ""
    at: str = ""
    message: str = ""
    store: str = ""

    @classmethod
    def here(cls, name: Noted, workspace: Path, store: Store, message: str = "") -> "RunState":
        """The state of a run of this process, now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(name, platform.node(), os.getpid(), str(workspace), now, message, place_of(store))

    @classmethod
    def parse(cls, value: object) -> "RunState | None":
        """What a record holds under `state`; None for anything else than was written there, as newer code may."""
        known = {part.name: int if part.name == "process" else str for part in fields(cls)}
        if not isinstance(value, Mapping) or {*value, "store"} != set(known) or value["name"] not in get_args(Noted):
            return None
        return cls(**value) if all(isinstance(part, known[name]) for name, part in value.items()) else None

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    def is_of(self, store: Store) -> bool:
        """Whether it was noted in this store, and not in one that this is a copy of; another machine may know it by another name."""
        return self.host != platform.node() or self.store in ("", place_of(store))

    def is_alive(self, store: Store) -> bool:
        """Whether the runner still works at the run of this store; one on another machine is believed."""
        if self.name != "running" or not self.is_of(store):
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
        results: where in the store the student or the statistics of each class, the set, the evaluation and the page lie; empty before
            the end.
        damage: a sentence for each of its records that is damaged.
    """

    id: str
    document: Mapping[str, Any]
    standing: Standing
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    successor: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

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
        sections = self.document.get("sections", {}).values()  # of a record of before it said the name itself
        return str(self.document.get("recipe") or next((section["recipe"] for section in sections if "recipe" in section), ""))

    @property
    def student_method(self) -> str:
        """Name of the plan that its student was trained by instead of the recipe's; "" for the recipe's own."""
        return str(self.parameters.get("student_method", ""))

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
        """A number of the evaluation, None where it was counted over no image: without labels, or between other classes."""
        value: Any = self.evaluation
        for name in path:
            if not isinstance(value, Mapping) or not value.get("total", True):
                return None
            value = value.get(name)
        return float(value) if isinstance(value, int | float) else None

    def to_json(self, uri: str) -> dict[str, Any]:
        """What programs read of it; `uri` is the store's."""
        places: dict[str, Any] = {name: f"{uri}/{self.results[name]}" for name in PLACES if name in self.results}
        return {
            "run": self.id,
            "recipe": self.recipe,
            "student_method": self.student_method,
            "seed": self.seed,
            "state": self.standing,
            "successor": self.successor,
            "message": " ".join([*self.damage, *([self.state.message] if self.state and self.state.message else [])]),
            "pipeline": self.document.get("pipeline", ""),
            "began": self.began,
            "seconds": self.seconds,
            "host": self.state.host if self.state else self.document.get("host", ""),
            "teacher": {"uri": self.parameters.get("teacher_uri", ""), "sha256": self.teacher_sha256},
            "student_top1": self.score("student", "accuracy", "top1"),
            "teacher_top1": self.score("teacher", "accuracy", "top1"),
            "agreement": self.score("agreement", "rate"),
            "set": set_place(self.results, uri),
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
    documents = {name: found[0] for name, found in read.items() if found is not None}
    stands = {name: stand(document, store) for name, document in documents.items()}
    finished = {_work(document): name for name, document in documents.items() if stands[name] == "finished"}
    present = set(keys)
    runs = []
    for name, document in documents.items():
        standing = stands[name]
        successor = finished.get(_work(document), "") if standing in ("stopped", "failed") else ""
        evaluation = _read(store, evaluation_of(name)) if evaluation_of(name) in present and standing == "finished" else None
        standing = "superseded" if successor else standing
        said, damage = evaluation or ({}, "")
        damages = tuple(sentence for sentence in ((read[name] or ({}, ""))[1], damage) if sentence)
        runs.append(Run(name, document, standing, said, successor, document.get("results") or {}, damages))
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


def stand(document: Mapping[str, Any], store: Store) -> Standing:
    """How a run stands by its own record, whatever other runs did.

    Args:
        document: its `run.json`, empty where that is damaged.
        store: that the record was read from.
    """
    if not document:
        return "damaged"
    if "results" in document:
        return "finished"
    state = RunState.parse(document.get("state"))
    if state is None or state.name == "finished":
        return "open"
    return "running" if state.is_alive(store) else "failed" if state.name == "failed" else "stopped"


def read_run(data: bytes, where: str) -> Document:
    """A `run.json`.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: another format, or a newer version than this code reads.
    """
    document = RUN_FORMAT.read(data, where)
    document.parse(_Said)
    return document


def write_run(store: Store, run: str, provenance: Provenance, fields: Mapping[str, Any]) -> None:
    """Leave a run's record."""
    store.write(f"runs/{run}/run.json", RUN_FORMAT.write(provenance, fields))


def amend_run(store: Store, run: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the record of a run, or replace what it says there, and return all that it says then; raises as `read_run` does."""
    key = f"runs/{run}/run.json"
    document = read_run(store.read(key), key)
    amended = {**document.fields, **fields}
    write_run(store, run, document.provenance, amended)
    return amended


def note_results(store: Store, run: str, made: Mapping[str, str]) -> None:
    """Note in a run's record where everything that it made lies in the store, which finishes it; of a run without a record, nothing.

    Equal whoever does it and however often.

    Args:
        store: of the run.
        run: its id.
        made: where the store holds what the run was for: its `student`, or its `statistics` of each class.

    Raises:
        StoreError: a record is damaged, or the store cannot be written.
        CheckpointMismatchError: a record was written by a newer Distillery.
    """
    key = f"runs/{run}/run.json"
    if not store.exists(key):
        return
    places = {"evaluation": evaluation_of(run), "page": page_of(run)}
    results: dict[str, Any] = {**made, **{name: place for name, place in places.items() if store.exists(place)}}
    said = read_run(store.read(key), key).fields
    if source := said.get("source"):  # it was there before, and lies where the run was told
        inside = place_in_store(str(source["uri"]))
        own = inside and str(source["uri"]).removesuffix(f"/{inside}") in (store.uri, place_of(store))
        results["dataset"] = {"place": inside} if own else {"at": source["uri"]}
        results["dataset"]["sha256"] = source["sha256"]
    elif drawn := find_record(read_records(store, run), "set"):
        results["dataset"] = {"place": set_of(drawn.key), "sha256": drawn.sha256("set")}
    if said.get("results") != results:
        amend_run(store, run, {"results": results})


def set_place(results: Mapping[str, Any], uri: str) -> str:
    """Where the set of a run lies, in the store at `uri`; "" where the run has none.

    Records of the first version name it with the store that it was in when they were written.
    """
    found = results.get("dataset", {})
    if isinstance(found, Mapping) and found.get("at"):  # outside the run's store
        return str(found["at"])
    place = str(found.get("place") or found.get("uri", "")) if isinstance(found, Mapping) else ""
    inside = place_in_store(place)
    return f"{uri}/{inside}" if inside else place


def place_in_store(uri: str) -> str:
    """Where below its store a set lies; "" where it is in none."""
    found = _SET.search(uri)
    return found[0] if found else ""


def place_of(store: Store) -> str:
    """Names a store on this machine, whichever way it was reached."""
    inside = store.local_path("runs")
    return str(inside.parent.resolve()) if inside is not None else store.uri


def _work(document: Mapping[str, Any]) -> str:
    """Equal for runs of which each makes the others needless; how their recipes are called, and comments in the code, do not matter."""
    versions = document.get("step_versions", {})
    aside = {"recipe", "code_version"} if versions else {"recipe"}
    sections = {
        step: [{name: value for name, value in section.items() if name not in aside} for section in _listed(sections)]
        for step, sections in document.get("sections", {}).items()
    }
    inputs = {name: document.get("parameters", {}).get(name, "") for name in ("eval_data_uri", "mlflow_model_name")}
    return canonical_json({"sections": sections, "step_versions": versions, **inputs})


def _listed(sections: Any) -> list[Mapping[str, Any]]:
    return sections if isinstance(sections, list) else [sections]


def _read(store: Store, key: str) -> tuple[dict[str, Any], str] | None:
    """A document that is looked at among others; empty, and a sentence, where it is damaged or of newer code; None where it is gone."""
    try:
        data = store.read(key)
    except MissingResourceError:
        return None
    try:
        if not key.endswith("/run.json"):
            return read_any(data, key), ""
        document = read_run(data, key)
    except DistilleryError as error:
        return {}, str(error)
    return {**document.fields, "provenance": document.provenance.to_json()}, ""
