"""What nothing in a store refers to any more: found with its size and the reason, and dropped where the caller says so.

Published sets and students always stay, and so does the record of every run. A finished step's results stay while a run's record, a
published set or a student names them; unfinished work stays while an open run may come back to it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from distillery.documents import read_any
from distillery.errors import ConfigError, StoreError
from distillery.ledger.runs import LOCK, Run, list_runs
from distillery.provenance import sha256_bytes
from distillery.step_table import makers_of
from distillery.storage import Store
from distillery.storage.locks import holder, try_lock
from distillery.workbench.lineage import LAYOUTS, StepRecord
from distillery.workbench.openings import Work, lock_of, opened_by_run

_RESULT, _POINTER, _MANIFEST, _BUNDLE = "result.json", "latest.json", "manifest.json", "bundle.json"
_LEFT_OVER = (_POINTER, "payloads/", "snapshots/", "lists/", "history/", "sample/")


@dataclass(frozen=True)
class Garbage:
    """Something that may go, as a whole.

    Attributes:
        place: folder in the store; of this machine where `folder` is set.
        reason: why nobody needs it.
        bytes: what it takes.
        keys: objects of the store, those first without which the others are never looked at.
        works: that it belongs to; a run that works at one of them keeps it.
        locks: held by whoever uses it, as paths in the workspace.
        folder: of the workspace, instead of objects.
    """

    place: str
    reason: str
    bytes: int
    keys: tuple[str, ...] = ()
    works: tuple[Work, ...] = ()
    locks: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Pruned:
    """What was done.

    Attributes:
        dropped: gone.
        busy: somebody works at it, so it is still there.
    """

    dropped: tuple[Garbage, ...]
    busy: tuple[Garbage, ...]


class Inventory:
    """A store at one moment.

    Args:
        store: looked at.
        workspace: local folder whose locks count and whose copies are looked at; it need not exist.
        forget: ids of open runs that are given up.

    Attributes:
        sizes: bytes of every object, by key.
        opened: works of each run.
        warnings: why something was kept that nobody can judge.

    Raises:
        ConfigError: a run to give up is not there, is finished, or runs.
        StoreError: the store cannot be read.
    """

    def __init__(self, store: Store, workspace: Path, forget: Iterable[str] = ()) -> None:
        self.store, self.workspace, self.forget = store, workspace, frozenset(forget)
        self.warnings: list[str] = []
        # the runs last: whoever begins meanwhile has then written nothing that is seen here without his mark
        self.sizes = {key: size for part in ("checkpoints", "sets", "students", "runs") for key, size in store.sizes(part).items()}
        self._runs = list_runs(store, [key for key in self.sizes if key.startswith("runs/")])
        self._check_forgotten()
        self.opened = opened_by_run(self.sizes)
        self._open = [run for run in self._runs if run.is_open and run.id not in self.forget]
        self._goes_on = self._works_of(self._open)
        self._is_unsure = False
        self._named = self._find_named()
        self._is_blind = False
        for run in self._open:
            if run.id not in self.opened and (run.state is None or run.standing == "running"):
                self._is_blind = True
                self.warnings.append(f"Run {run.id} ({run.standing}) does not say what it works at, so nothing is dropped beside it.")

    def garbage(self) -> list[Garbage]:
        """Everything that may go, by place."""
        found = [*self._run_remains(), *self._copies()]
        if not self._is_blind:
            found += [*self._checkpoints(), *self._sets(), *self._students()]
        return sorted(found, key=lambda item: item.place)

    def _check_forgotten(self) -> None:
        known = {run.id: run for run in self._runs}
        for name in self.forget:
            if name not in known:
                raise ConfigError(f"There is no run {name!r} in the store {self.store.uri!r}, so it cannot be given up: check its id.")
            if (standing := known[name].standing) in ("finished", "running"):
                raise ConfigError(f"Run {name!r} is {standing} and cannot be given up: name one that is stopped, failed or open.")

    def _checkpoints(self) -> Iterator[Garbage]:
        counts = self._goes_on | self._works_of(run for run in self._runs if run.standing == "finished")
        for parts, keys in _group(self.sizes, "checkpoints", 2).items():
            work, place = Work(*parts), f"checkpoints/{'/'.join(parts)}"
            if f"{place}/{_RESULT}" not in keys:
                if work not in self._goes_on:
                    yield self._objects(place, "unfinished, and no open run works at it", keys, work)
            elif work not in counts and not self._is_named(place):
                yield self._objects(place, "finished, but no run, published set or student refers to it", keys, work)
            else:
                yield from self._left_over(work, place, keys)

    def _left_over(self, work: Work, place: str, keys: list[str]) -> Iterator[Garbage]:
        """What finished work needs no more, and what a worker has kept who was not the first to finish."""
        if left := [key for key in keys if key.removeprefix(f"{place}/").startswith(_LEFT_OVER)]:
            yield self._objects(place, "checkpoints left over from finished work", left, work)
        outputs = self._outputs_of(place)
        records = [StepRecord(work.step, work.key, outputs, layout) for layout in LAYOUTS]
        named = [{record.at(name, relative) for name in outputs for relative in outputs[name]} for record in records]
        if not any(names and names <= set(keys) for names in named):
            return  # where what is named is not there, nobody knows what these are
        if others := [key for key in keys if key.startswith(f"{place}/outputs/") and key not in set().union(*named)]:
            yield self._objects(f"{place}/outputs", "outputs of a worker who was not the first to finish", others, work)

    def _sets(self) -> Iterator[Garbage]:
        for (name,), keys in _group(self.sizes, "sets", 1).items():
            place, works = f"sets/{name}", tuple(Work(step, name) for step in makers_of("set"))
            if f"{place}/{_MANIFEST}" in keys:
                named = self._shards_of(place)
                stray = [key for key in keys if key.startswith(f"{place}/shards/") and key not in named]
                if stray and named and named <= set(keys):  # where a shard is gone, nobody knows what the others are
                    yield self._objects(f"{place}/shards", "the published manifest does not name them", stray, *works)
            elif not self._goes_on.intersection(works):
                yield self._objects(place, "never published, and no open run works at it", keys, *works)

    def _students(self) -> Iterator[Garbage]:
        if any(run.standing in ("running", "open") for run in self._runs):
            return  # whose bundle.json may be still to come
        for (name,), keys in _group(self.sizes, "students", 1).items():
            if f"students/{name}/{_BUNDLE}" not in keys:
                yield self._objects(f"students/{name}", "half a student: its bundle.json was never written", keys, locks=(LOCK,))

    def _run_remains(self) -> Iterator[Garbage]:
        known = {run.id for run in self._runs}
        for (name,), keys in _group(self.sizes, "runs", 1).items():
            if name in self.forget:
                yield self._objects(f"runs/{name}", "record of a run that is given up", keys)
            elif name not in known:
                yield self._objects(f"runs/{name}", "remains of a run without a record", keys)

    def _copies(self) -> Iterator[Garbage]:
        """What the workspace holds of things that are kept elsewhere."""
        teachers = {run.teacher_sha256 for run in self._open}
        ended = {run.id for run in self._runs if run.standing in ("finished", "superseded")} | self.forget
        for folder in _folders(self.workspace / "bundles"):
            if folder.name not in teachers:
                yield _local(folder, "copy of a bundle, fetched again where it is needed")
        for folder in _folders(self.workspace / "kfp"):
            if folder.name in ended:
                yield _local(folder, "Kubeflow's own copies of an ended run's files")

    def _works_of(self, runs: Iterable[Run]) -> set[Work]:
        return {work for run in runs for work in self.opened.get(run.id, ())}

    def _find_named(self) -> set[str]:
        """Every sha256 that a published set, a student or a finished run names."""
        sets = [run.results.get("dataset") for run in self._runs]
        named = {str(dataset.get("sha256", "")) for dataset in sets if isinstance(dataset, Mapping)}
        for key in self.sizes:
            parts = key.split("/")
            is_manifest = parts[0] == "sets" and len(parts) == 3 and parts[2] == _MANIFEST
            if not is_manifest and not (parts[0] == "students" and parts[-1] == _BUNDLE):
                continue
            document = self._document(key)
            if not document:
                self._is_unsure = True
                self.warnings.append(f"{key} is damaged, so nobody knows what it comes from: all finished work is kept.")
            if not is_manifest:
                named |= {parts[1], *_inputs(document)}
            else:
                named |= {sha256_bytes(self.store.read(key)), str(document.get("synthesizer_sha256", "")), *_inputs(document)}
        return named - {""}

    def _is_named(self, place: str) -> bool:
        """Whether an output of finished work is named; what cannot be read counts as named, and as naming all."""
        if self._is_unsure:
            return True
        record = StepRecord(step="", key="", outputs=self._outputs_of(place))
        return not record.outputs or any(record.sha256(name) in self._named for name in record.outputs)

    def _outputs_of(self, place: str) -> dict[str, dict[str, str]]:
        """What finished work says of its outputs; nothing where that cannot be read."""
        result = self._document(f"{place}/{_RESULT}").get("result")
        outputs = result.get("outputs") if isinstance(result, Mapping) else None
        if not isinstance(outputs, Mapping) or not all(isinstance(files, Mapping) for files in outputs.values()):
            return {}
        return {name: dict(files) for name, files in outputs.items()}

    def _shards_of(self, place: str) -> set[str]:
        """The shards of a published set; empty where its manifest cannot be read, and then none of them may go."""
        try:
            return {f"{place}/shards/{entry['sha256']}.safetensors" for entry in self._document(f"{place}/{_MANIFEST}")["shards"]}
        except (KeyError, TypeError):
            self.warnings.append(f"The manifest of {place} cannot be read, so all of the set is kept: `distillery verify` says more.")
            return set()

    def _document(self, key: str) -> dict[str, Any]:
        """A document; empty where it is damaged, for then something else says so."""
        data = self.store.read(key)
        try:
            return read_any(data, key)
        except StoreError:
            return {}

    def _objects(self, place: str, reason: str, keys: list[str], *works: Work, locks: tuple[str, ...] = ()) -> Garbage:
        # without its first document a step starts anew; with it but without the rest it would stop at the damage
        ordered = tuple(sorted(keys, key=lambda key: (not key.endswith((f"/{_RESULT}", f"/{_POINTER}")), key)))
        return Garbage(place, reason, sum(self.sizes[key] for key in keys), ordered, works, locks or tuple(map(lock_of, works)))


def prune(inventory: Inventory, garbage: Iterable[Garbage]) -> Pruned:
    """Drop what an inventory found, but nothing that somebody has begun to work at since.

    Whoever works in the same workspace holds the lock of its key from before its mark is written, so nothing is missed there. No lock
    reaches other machines: their marks are looked for just before each deletion.

    Args:
        inventory: that found it.
        garbage: what is to go.

    Raises:
        StoreError: the store cannot be read or written.
    """
    dropped: list[Garbage] = []
    busy: list[Garbage] = []
    for item in garbage:
        with _alone(inventory.workspace, item) as alone:
            free = alone and not _is_wanted(inventory, item)
            if free:
                _delete(inventory.store, item)
        (dropped if free else busy).append(item)
    return Pruned(tuple(dropped), tuple(busy))


@contextmanager
def _alone(workspace: Path, item: Garbage) -> Iterator[bool]:
    """Hold the locks of an item, where there is a workspace that could have them; gives whether nobody else did."""
    if item.folder and any(holder(path) for path in workspace.glob("locks/*.lock")):
        yield False
        return
    with ExitStack() as stack:
        yield all([stack.enter_context(try_lock(workspace / path)) for path in item.locks if workspace.is_dir()])


def _is_wanted(inventory: Inventory, item: Garbage) -> bool:
    """Whether a run has come since the inventory was made that works at it, or does not yet say at what."""
    if item.folder or not item.works:
        return False
    now = inventory.store.list("runs")
    opened = opened_by_run(now)
    fresh = {work for run, works in opened.items() for work in works - inventory.opened.get(run, set())}
    silent = {key for key in now if key.endswith("/run.json") and key not in inventory.sizes and key.split("/")[1] not in opened}
    return bool(silent) or bool(fresh.intersection(item.works))


def _delete(store: Store, item: Garbage) -> None:
    if item.folder:
        rmtree(item.folder, ignore_errors=True)
        return
    for key in item.keys:
        store.delete(key)
    place = store.local_path(item.place)
    if place is None or not place.is_dir():
        return
    store.below(item.place).clean()  # only a folder keeps what killed writers left unfinished, and empty folders
    above = item.place.count("/")
    for folder in (*sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True), place, *list(place.parents)[:above]):
        with suppress(OSError):
            folder.rmdir()


def _group(keys: Iterable[str], root: str, depth: int) -> dict[tuple[str, ...], list[str]]:
    """Keys below `root` by the first `depth` folders; what lies higher is none of ours."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        parts = tuple(key.split("/"))
        if parts[0] == root and len(parts) > depth + 1:
            groups.setdefault(parts[1 : depth + 1], []).append(key)
    return groups


def _inputs(document: Mapping[str, Any]) -> set[str]:
    provenance = document.get("provenance", {})
    inputs = provenance.get("inputs", {}) if isinstance(provenance, Mapping) else {}
    return {str(sha256) for sha256 in inputs.values()}


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:
        return []


def _local(folder: Path, reason: str) -> Garbage:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.lstat().st_size
    return Garbage(str(folder), reason, size, locks=(LOCK,), folder=folder)
