"""Flip bytes of every file that a run leaves, and read it with every reader: a sentence or no difference.

Never a traceback, and never another result in silence.
"""

import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from chains import Chain
from distillery.data.export import ExportConfig, export_set
from distillery.data.reference import open_reference, read_reference
from distillery.data.store import SyntheticSet
from distillery.documents import SEAL
from distillery.engine.checkpoint import Checkpoints
from distillery.errors import DistilleryError, StoreError
from distillery.evaluation.health import load_health
from distillery.evaluation.report import load_report
from distillery.evaluation.report import read_origin as report_origin
from distillery.ledger.audit import audit
from distillery.ledger.compare import differences, results
from distillery.ledger.prune import Inventory
from distillery.ledger.runs import RUN_FORMAT, RunState, amend_run, find_run, read_run
from distillery.models import export
from distillery.models.bundle import fetch_bundle, load_classifier, read_bundle, read_origin
from distillery.models.export import export_student
from distillery.provenance import dump_json
from distillery.reporting.card import open_sources
from distillery.statistics.moments import load_moments
from distillery.statistics.moments import read_origin as moments_origin
from distillery.step_table import Pipeline
from distillery.steps import register
from distillery.storage import FolderStore, Store, open_store
from distillery.storage.locks import holder
from distillery.synthesis.bundle import load_synthesizer, read_synthesizer
from distillery.tracking.history import Entry, read_history, resume_history, write_history
from distillery.tracking.null import NullTracker
from distillery.workbench.lineage import read_records
from distillery.workbench.openings import FORMAT as OPENING
from distillery.workbench.openings import has_added
from distillery.workbench.students import read_choice
from distillery.workbench.warned import read_warnings
from distillery_kfp.pipelines.runner.display import Display
from distillery_kfp.pipelines.runner.resume import request_of

SAMPLES = 500
SMALL = 20_000
PRUNED = 100
STOPPED = "run-2"
UNFINISHED = "checkpoints/train_student/unfinished"

Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Left:
    """What a run left: its chain, and beside it a checkpoint in progress, a run that was stopped, and two exports."""

    chain: Chain
    teacher_sha256: str
    student_sha256: str

    @property
    def store(self) -> Store:
        """The run's."""
        return open_store(self.chain.store)

    def find(self, pattern: str) -> Path:
        """The first file of that pattern, the largest of several."""
        return max(self.chain.folder.glob(pattern), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("run")
    chain = Chain(folder, "ls_gdfd/digits", str(folder / "store"), more={"student.keep_epochs": 1}).make()
    store = open_store(chain.store)
    rounds = [Entry(numbers={"student/kd": 1.0 / number}) for number in range(1, 71)]
    Checkpoints(store.below(UNFINISHED)).save(3, {"weights": torch.ones(5), "epoch": 3}, {"rounds": rounds})
    write_history(store.below(UNFINISHED), rounds)
    amend_run(store, chain.run, {"state": RunState.here("finished", folder / "work", store).to_json(), "seconds": 2.5})
    made = read_run(store.read(f"runs/{chain.run}/run.json"), "here")
    stopped = {name: value for name, value in made.fields.items() if name != "results"}
    stopped["state"] = RunState.here("stopped", folder / "work", store).to_json()
    stopped["parameters"] = {**stopped["parameters"], "eval_data_uri": "other"}
    store.write(f"runs/{STOPPED}/run.json", RUN_FORMAT.write(made.provenance, stopped))
    export_set(SyntheticSet.open(str(next((folder / "store/sets").iterdir()))), folder / "pictures", ExportConfig(format="webdataset"))
    export_student(chain.student, folder / "served", ("pt2",), ("float32",))
    NullTracker(folder / "work/tracking/aside").params({"a": 1})
    return Left(chain, read_bundle(chain.teacher)[1], read_bundle(chain.student)[1])


def same(first: Any, second: Any) -> bool:
    """Whether two results are equal, tensors and networks bit for bit."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, nn.Module):
        return same(dict(first.state_dict()), dict(second.state_dict()))
    if is_dataclass(first) and not isinstance(first, type):
        return type(first) is type(second) and all(same(getattr(first, part.name), getattr(second, part.name)) for part in fields(first))
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(same(value, second[name]) for name, value in first.items())
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def outcome(read: Reader, path: Path) -> Any:
    """The result, or the sentence that it was refused with."""
    refused: DistilleryError | None = None
    try:
        return read(path)
    except DistilleryError as error:
        refused = error
    assert str(refused).strip()
    assert "\n" not in str(refused), str(refused)
    return refused


def check(path: Path, readers: Mapping[str, Reader], damages: Iterator[bytes], sound: bool = True) -> int:
    """Read each damaged content with every reader; returns how many were tried.

    Args:
        path: of the file, which is whole again afterwards.
        readers: by name.
        damages: contents instead of its own.
        sound: whether what is read must be what was written; of documents that hold no hash only a traceback is a fault.
    """
    whole, tried = path.read_bytes(), 0
    expected = {name: outcome(read, path) for name, read in readers.items()}
    try:
        for data in damages:
            path.write_bytes(data)
            tried += 1
            for name, read in readers.items():
                if name == "prune" and tried > PRUNED:
                    continue  # looks at the whole store
                found = outcome(read, path)
                if sound and not isinstance(found, DistilleryError):
                    assert same(found, expected[name]), f"{name} reads another {path.name} in silence:\n{data!r}"
    finally:
        path.write_bytes(whole)
    for name, read in readers.items():
        again = outcome(read, path)
        assert isinstance(again, DistilleryError) or same(again, expected[name]), f"{name} changed what it reads"
    return tried


def sampled(data: bytes, name: str, samples: int = SAMPLES) -> Iterator[bytes]:
    """Flips at random, and what disks and copies do: nothing, half, too much, a block twice, a block of zeros, two blocks changed over."""
    draws = random.Random(name)
    for _ in range(samples):
        position = draws.randrange(len(data))
        yield data[:position] + bytes([data[position] ^ draws.randrange(1, 256)]) + data[position + 1 :]
    yield from (b"", data + b"\0", data + data, b"\0" * len(data))
    for _ in range(20):
        start, end = sorted(draws.sample(range(len(data) + 1), 2))
        middle = (start + end) // 2
        yield data[:start]
        yield data[:start] + bytes(end - start) + data[end:]
        yield data[:end] + data[start:]
        yield data[:start] + data[middle:end] + data[start:middle] + data[end:]


def every_byte(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        for mask in (1, 128):
            yield data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def shown(left: Left, run: str) -> dict[str, Any]:
    """What `distillery runs` shows; where it says that a record is damaged, the sentence, and no number from there."""
    found = find_run(left.store, run)
    row = found.to_json(left.chain.store)
    for sentence in found.damage:
        assert sentence in row["message"]
    if found.damage:
        assert (row["student_top1"], row["agreement"]) == (None, None) or found.standing == "finished"
        raise StoreError(found.damage[0])
    return row


def compared(left: Left) -> Any:
    runs = find_run(left.store, left.chain.run), find_run(left.store, STOPPED)
    return differences(*runs), [results(run) for run in runs]


def wasted(left: Left) -> list[str]:
    """What `distillery prune` would drop: never more for damage."""
    return [item.place for item in Inventory(left.store, left.chain.folder / "work").garbage()]


def finished(left: Left) -> Any:
    step = left.find("store/checkpoints/train_student/*/result.json").parent
    return Checkpoints(FolderStore(step)).finished()


def asked_again(left: Left) -> Any:
    return request_of(find_run(left.store, STOPPED), left.chain.store, left.chain.folder / "again")


def registered(path: Path) -> Any:
    document = register.FORMAT.read(path.read_bytes(), str(path))
    return document.fields, document.provenance


def readers_of(left: Left) -> dict[str, tuple[str, dict[str, Reader]]]:
    """Kind of file -> pattern of one, and all that read it. The paths are those of a store, or of what steps hand on."""
    store, chain = left.store, left.chain
    run, sets = chain.run, next((chain.folder / "store/sets").iterdir())
    teacher, student = left.teacher_sha256, chain.student
    bundle: dict[str, Reader] = {
        "read": lambda path: read_bundle(path.parent)[0],
        "origin": lambda path: read_origin(path.parent),
        "load": lambda path: load_classifier(path.parent),
        "fetch": lambda path: read_bundle(fetch_bundle(path.parent.as_uri(), chain.folder / "fetched"))[0],
        "card": lambda path: open_sources(path.parent),
    }
    synthesizer: dict[str, Reader] = {
        "read": lambda path: read_synthesizer(path.parent)[0],
        "load": lambda path: load_synthesizer(path.parent, teacher),
    }
    whole: dict[str, Reader] = {
        "open": lambda path: SyntheticSet.open(str(sets)).manifest,
        "load": lambda path: SyntheticSet.open(str(sets)).load(),
        "holdout": lambda path: SyntheticSet.open(str(sets)).load("holdout"),
        "verify": lambda path: SyntheticSet.open(str(sets)).verify(),
    }
    checkpoint: dict[str, Reader] = {"load": lambda path: Checkpoints(store.below(UNFINISHED)).load()}
    records: dict[str, Reader] = {"runs": lambda path: shown(left, run), "compare": lambda path: compared(left)}
    return {
        "bundle": (f"store/{chain.key}/bundle.json", {**bundle, "prune": lambda path: wasted(left)}),
        "weights": (f"store/{chain.key}/weights.safetensors", {"load": bundle["load"]}),
        "run": (f"store/runs/{run}/run.json", {**records, "read": lambda path: read_run(path.read_bytes(), "it")}),
        "stopped run": (
            f"store/runs/{STOPPED}/run.json",
            {"runs": lambda path: shown(left, STOPPED), "resume": lambda path: asked_again(left)},
        ),
        "evaluation": (
            f"store/runs/{run}/evaluation.json",
            {**records, "load": load_report, "origin": report_origin, "card": lambda path: open_sources(student, path)},
        ),
        "step record": (f"store/runs/{run}/steps/materialize-*.json", {"read": lambda path: read_records(store, run)}),
        "opening": (
            f"store/runs/{run}/opened/materialize/*.json",
            {"read": lambda path: OPENING.read(path.read_bytes(), "it").fields, "withdraw": lambda path: has_added(store, run)},
        ),
        "choice": (f"{run}/student/best/choice.json", {"read": lambda path: read_choice(path.parents[1])}),
        "history": ("store/checkpoints/train_generator/*/history.json", {"read": lambda path: read_history(FolderStore(path.parent))}),
        "open history": (
            f"store/{UNFINISHED}/history/*.json",
            {
                "read": lambda path: read_history(FolderStore(path.parents[1])),
                "resume": lambda path: resume_history(store.below(UNFINISHED), 3),
            },
        ),
        "result": (
            "store/checkpoints/train_student/*/result.json",
            {"finished": lambda path: finished(left), "prune": lambda path: wasted(left)},
        ),
        "pointer": (f"store/{UNFINISHED}/latest.json", checkpoint),
        "payload": (f"store/{UNFINISHED}/payloads/*.pt", checkpoint),
        "list": (f"store/{UNFINISHED}/lists/*.json", checkpoint),
        "synthesizer": (f"{run}/synthesizer/synthesizer.json", synthesizer),
        "state": (f"{run}/synthesizer/state.safetensors", {"load": synthesizer["load"]}),
        "statistics": (f"{run}/statistics", {"load": lambda path: load_moments(path, teacher), "origin": moments_origin}),
        "manifest": ("store/sets/*/manifest.json", {**whole, "prune": lambda path: wasted(left)}),
        "shard": ("store/sets/*/shards/*", {name: whole[name] for name in ("load", "verify")}),
        "reference": (
            f"{run}/set/reference.json",
            {"read": lambda path: read_reference(path.parent), "open": lambda path: open_reference(path.parent).digest},
        ),
        "health": (f"{run}/set/health.json", {"load": load_health}),
        "registration": (f"{run}/registration.json", {"read": registered}),
        "student export": ("served/export.json", {"replace": lambda path: export._check_target(path.parent)}),
    }


KINDS = (
    *("bundle", "weights", "run", "stopped run", "evaluation", "step record", "opening", "choice"),
    *("history", "open history", "result", "pointer", "payload", "list", "synthesizer", "state"),
    *("statistics", "manifest", "shard", "reference", "health", "registration", "student export"),
)
HOLD_HASHES = tuple(kind for kind in KINDS if kind not in ("weights", "payload", "state", "shard", "statistics", "choice"))
"""Documents of which there are some of version 1, without a hash."""


def test_every_file_of_the_store_is_of_a_kind(left: Left) -> None:
    readers = readers_of(left)
    assert tuple(readers) == KINDS
    names = {"report.html"} | {
        path.name for pattern, _ in readers.values() for path in left.chain.folder.glob(pattern)
    }  # the page: nobody's
    below = ("steps", "shards", "opened", "outputs", "students")  # what is kept of outputs is what steps hand on
    others = [
        str(path)
        for path in (left.chain.folder / "store").rglob("*")
        if path.is_file() and path.name not in names and not set(below) & set(path.relative_to(left.chain.folder).parts)
    ]
    assert others == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_damage_is_a_sentence_or_no_difference(kind: str, left: Left) -> None:
    pattern, readers = readers_of(left)[kind]
    path = left.find(pattern)
    assert check(path, readers, sampled(path.read_bytes(), kind)) >= SAMPLES


@pytest.mark.parametrize("kind", HOLD_HASHES)
def test_damage_of_a_document_from_before_the_hash_is_no_traceback(kind: str, left: Left) -> None:
    pattern, readers = readers_of(left)[kind]
    path = left.find(pattern)
    whole = path.read_bytes()
    document = json.loads(whole)
    first = dump_json({name: value for name, value in {**document, "version": 1}.items() if name != SEAL})
    path.write_bytes(first)
    try:
        assert check(path, readers, sampled(first, kind, 100), sound=False) >= 100
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["bundle", "run", "evaluation", "step record", "manifest", "shard", "synthesizer"])
def test_an_audit_of_damage_is_a_sentence(kind: str, left: Left) -> None:
    pattern = {"synthesizer": "store/checkpoints/train_generator/*/outputs/synthesizer/*/synthesizer.json"}.get(kind) or readers_of(left)[
        kind
    ][0]
    path = left.find(pattern)
    subject = f"{left.chain.store}/{left.chain.key}"

    def walk(_: Path) -> list[dict[str, str]]:
        return [{**link.to_json(), "sha256": ""} if link.name == "run" else link.to_json() for link in audit(subject)]

    assert {link["state"] for link in walk(path)} == {"ok"}
    check(path, {"audit": walk}, sampled(path.read_bytes(), f"audit {kind}", 3))


def test_damage_of_what_only_watchers_read_is_never_in_the_way(left: Left) -> None:
    work = left.chain.folder / "work"
    screen = Console(force_terminal=True, file=io.StringIO())
    tracker = NullTracker(work / "tracking/aside")
    display = Display(screen, Pipeline("drawing", ("materialize",)), work / "progress", work / "warnings")
    display.started("materialize")

    def show(_: Path) -> None:
        display.refresh()
        display.ended("materialize", True)

    readers: dict[str, tuple[Path, Reader]] = {
        "tracking": (work / "tracking/aside/params.json", lambda _: tracker.params({"b": 2})),
        "warnings": (work / "warnings/materialize.json", lambda path: read_warnings(path.parent, "materialize")),
        "progress": (work / "progress/materialize.json", show),
        "lock": (next(work.glob("locks/*.lock")), holder),
    }
    for kind, (path, read) in readers.items():
        whole = path.read_bytes()
        for data in sampled(whole, kind, 100):
            path.write_bytes(data)
            read(path)
        path.write_bytes(whole)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_the_small_files(kind: str, left: Left) -> None:
    pattern, readers = readers_of(left)[kind]
    path = left.find(pattern)
    data = path.read_bytes()
    check(path, readers, every_byte(data) if len(data) <= SMALL else sampled(data, f"soak {kind}", 4_000))
