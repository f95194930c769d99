"""Stores with runs that nobody ran: records, marks, results, sets and students of any standing, in a few bytes each."""

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.engine.checkpoint import RESULT
from distillery.evaluation.report import FORMAT as EVALUATION
from distillery.ledger.runs import RUN_FORMAT, RunState
from distillery.provenance import Provenance, dump_json, sha256_bytes, stamp
from distillery.storage import MemoryStore, Store
from distillery.workbench.lineage import FILE, kept_in
from distillery.workbench.openings import Work, mark_opened


def digest(name: str) -> str:
    """A sha256 that anybody can name."""
    return sha256_bytes(name.encode())


def report(top1: float) -> dict[str, Any]:
    """An `evaluation.json`, as far as lists and comparisons read it."""
    model = {"cost": {"parameters": 10, "flops": 20}, "calibration": {"ece": 0.1, "bins": []}}
    scores = {"correct": int(100 * top1), "total": 100, "top1": top1, "top5_correct": 100, "top5": 1.0, "per_class": [], "confusion": []}
    return {
        "source": "test set",
        "images": 100,
        "labelled": True,
        "class_names": ["a", "b"],
        "teacher": {"name": "t", "sha256": digest("teacher"), **model, "accuracy": {**scores, "top1": 0.99}},
        "student": {"name": "s", "sha256": digest("student"), **model, "accuracy": scores},
        "agreement": {"agreed": 90, "total": 100, "rate": 0.9, "kl": 0.25},
        "snapshots": [],
    }


@dataclass
class MadeUp:
    """A store, and ways to put things into it.

    Attributes:
        store: empty at first.
        workspace: its runs say that they work there.
    """

    workspace: Path
    store: Store = field(default_factory=MemoryStore)

    def run(
        self, name: str, state: str = "", config: dict[str, Any] | None = None, work: str = "", noted: RunState | None = None, **more: Any
    ) -> None:
        """A record; `work` tells runs of unequal plans apart, and `state` or `noted` is what the runner noted, if anything."""
        provenance = Provenance(inputs={"teacher": digest("teacher")}, config=config or {}, seeds={"run": 3}, code_version="c")
        fields: dict[str, Any] = {
            "pipeline": "online_distillation",
            "parameters": {"teacher_uri": "teachers/one", "run_salt": ""},
            "sections": {
                "statistics": {"seed": 3, "salt": work or name},
                "registration": {"recipe": more.pop("recipe", "fast_dfkd/digits")},
            },
            "planned": "2026-11-21T08:00:00+00:00",
            "host": "somewhere",
        }
        if state:
            host = "elsewhere" if state == "running" else platform.node()
            fields["state"] = {
                "name": state,
                "host": host,
                "process": 1,
                "workspace": str(self.workspace),
                "at": "",
                "message": "It is so.",
            }
        if state == "finished":
            fields |= {"results": {"student": f"students/{digest(name)}", "dataset": {"uri": "u", "sha256": ""}}, "seconds": 61.0}
            self.store.write(f"runs/{name}/evaluation.json", EVALUATION.write(provenance, report(0.5)))
        if noted:
            fields["state"] = noted.to_json()
        self.store.write(f"runs/{name}/run.json", RUN_FORMAT.write(provenance, {**fields, **more}))

    def mark(self, run: str, step: str, key: str) -> None:
        """Say that the run opened that work."""
        mark_opened(self.store, run, Work(step, key))

    def unfinished(self, step: str, key: str) -> str:
        """Work with a checkpoint; its folder."""
        self.store.write(f"checkpoints/{step}/{key}/latest.json", b"{}")
        self.store.write(f"checkpoints/{step}/{key}/payloads/one.pt", b"state")
        return f"checkpoints/{step}/{key}"

    def finished(self, step: str, key: str, **outputs: str) -> str:
        """Work with a result whose outputs have these hashes, by default one that nobody names; its folder."""
        outputs = outputs or {"synthesizer": digest(f"output of {key}")}
        result: dict[str, dict[str, Any]] = {"metrics": {}, "outputs": {name: {"": sha256} for name, sha256 in outputs.items()}}
        self.store.write(f"checkpoints/{step}/{key}/result.json", RESULT.write(Provenance(code_version="c"), {"result": result}))
        for name, files in result["outputs"].items():
            self.store.write(f"checkpoints/{step}/{key}/{kept_in(name, files)}/{FILE}", b"bytes")
        return f"checkpoints/{step}/{key}"

    def set(self, key: str, shards: int = 2, published: bool = True, **inputs: str) -> str:
        """A set whose manifest names its inputs; its folder."""
        names = [digest(f"{key} {number}") for number in range(shards)]
        for name in names:
            self.store.write(f"sets/{key}/shards/{name}.safetensors", b"images")
        if published:
            made = {"shards": [{"sha256": name} for name in names], "synthesizer_sha256": inputs.pop("synthesizer", "")}
            provenance = Provenance(inputs=inputs, code_version="c")
            self.store.write(f"sets/{key}/manifest.json", dump_json(stamp("distillery-set", 1, provenance, made)))
        return f"sets/{key}"

    def student(self, name: str, whole: bool = True, **inputs: str) -> str:
        """A student by the name of its digest; its folder."""
        folder = f"students/{digest(name)}"
        self.store.write(f"{folder}/weights.safetensors", b"weights")
        if whole:
            document = stamp("distillery-bundle", 1, Provenance(inputs=inputs, code_version="c"), {})
            self.store.write(f"{folder}/bundle.json", dump_json(document))
        return folder
