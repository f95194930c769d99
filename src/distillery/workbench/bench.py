"""What every step works at: its key, store, lock, checkpoints, tracker and progress, and what happens when it fails or is stopped."""

import atexit
import functools
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from distillery.engine.checkpoint import Checkpoints
from distillery.engine.progress import Progress
from distillery.engine.session import Session
from distillery.engine.stopwatch import Stopwatch
from distillery.errors import ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.foreign_code import guarded
from distillery.host import watcher
from distillery.models.catalog import check_own_sources
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.recipes.sections import Section, check_code
from distillery.redaction import redact_output
from distillery.runtime import Precision, Runtime, resolve_runtime
from distillery.step_version import step_version
from distillery.storage import Store, check_key, open_store
from distillery.storage.locks import lock
from distillery.storage.workspace import workspace as workspace
from distillery.tracking.history import close_history
from distillery.tracking.open import open_tracker
from distillery.tracking.protocol import Tracker
from distillery.workbench.keys import key_of, package_versions
from distillery.workbench.lineage import FILE, StepRecord, kept_in, run_identity, write_record
from distillery.workbench.openings import Work, lock_of, mark_opened
from distillery.workbench.warned import keeping_warnings, warned_by

logger = logging.getLogger(__name__)

_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""Python's 700 searches for garbage hundreds of times while torch and MLflow are imported, about 0.7 s of each step's start."""

_UNHANDLED = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
"""How Python starts: a signal that is handled otherwise belongs to whoever handles it."""


def nothing() -> None:
    """What follows from most outputs."""


@dataclass(frozen=True)
class Workbench:
    """An open step.

    Attributes:
        step: its name.
        section: its parsed section.
        inputs: sha256 of each input, by name.
        key: names the work: equal work has an equal key.
        runtime: resolved hardware fields.
        store: published bytes and checkpoints.
        workdir: local workspace.
        checkpoints: below `checkpoints/<step>/<key>` of the store.
        tracker: observer of this step.
        progress: how far it is.
        clock: where its time goes.
    """

    step: str
    section: Section
    inputs: Mapping[str, str]
    key: str
    runtime: Runtime
    store: Store
    workdir: Path
    checkpoints: Checkpoints
    tracker: Tracker
    progress: Progress
    clock: Stopwatch = field(default_factory=Stopwatch)

    @property
    def provenance(self) -> Provenance:
        """The block for every file that this step writes."""
        return _origin(self.step, self.section, self.runtime, self.inputs)

    def session(self, every: int = 1) -> Session:
        """What this step's loop runs in.

        Args:
            every: rounds between two checkpoints.
        """
        tracker = self.tracker
        return Session(self.checkpoints, self.progress, tracker.metrics, every, clock=self.clock, catch_up=tracker.catch_up)

    def do(
        self, outputs: Mapping[str, Path], make: Callable[[], Mapping[str, float]], commit: Callable[[], None] = nothing
    ) -> dict[str, float]:
        """Do the step's work, unless it was done before: then its outputs are taken.

        Args:
            outputs: name -> where the file or folder has to lie.
            make: writes them, and returns the metrics.
            commit: what follows from the outputs once they are decided; may be repeated.

        Returns:
            The metrics that belong to the outputs.

        Raises:
            StoreError: a kept output is gone or fails its hash.
        """
        if (done := self.finished(outputs, commit)) is not None:
            return done
        try:
            metrics = make()
        except (MissingResourceError, StoreError):
            # another worker of this key drops, once it has finished, what this one may still be reading
            if (done := self.finished(outputs, commit)) is None:
                raise
            return done
        return self.finish(outputs, metrics, commit)

    def finish(self, outputs: Mapping[str, Path], metrics: Mapping[str, float], commit: Callable[[], None] = nothing) -> dict[str, float]:
        """Keep the outputs under their hash, then record the step as finished: from that moment they are its outputs.

        Where another worker of the same key was first, its outputs are put in place of these, all of them.

        Args:
            outputs: name -> file or folder that the step has written.
            metrics: the step's result.
            commit: as in `do`.

        Returns:
            The metrics that belong to the outputs.
        """
        files: dict[str, dict[str, str]] = {}
        with self.clock.part("io"):
            for name, path in outputs.items():
                files[name] = self._keep(name, path)
        close_history(self.checkpoints.store, self.clock.lap())
        warned = warned_by(self.step)
        result = {"metrics": dict(metrics), "outputs": files, "warnings": warned.lasting if warned else []}
        standing = self.checkpoints.finish(result)
        if standing["outputs"] != files:
            logger.warning("Another worker finished %s (key %s) first: its outputs are taken, whole.", self.step, self.key[:12])
            _remove(outputs, files)
            self._take(outputs, standing)
        commit()
        return self._tell(standing)

    def finished(self, outputs: Mapping[str, Path], commit: Callable[[], None] = nothing) -> dict[str, float] | None:
        """Where this work was done before, put its outputs in place again and return its metrics; else None.

        Args:
            outputs: name -> where the file or folder has to lie.
            commit: as in `do`.

        Raises:
            StoreError: a kept output is gone or fails its hash.
        """
        result = self.checkpoints.finished()
        if result is None:
            return None
        self._take(outputs, result)
        commit()
        logger.info("%s was done before (key %s), its result is taken; a new run_salt forces new work.", self.step, self.key[:12])
        return self._tell(result)

    def _tell(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Note what came out, new or taken from before, for the tracker and for whoever audits the run."""
        outputs: dict[str, dict[str, str]] = result["outputs"]
        metrics: dict[str, float] = result["metrics"]
        record = StepRecord(step=self.step, key=self.key, outputs=outputs)
        self.tracker.metrics(metrics)
        self.tracker.tags({name: record.sha256(name) for name in outputs if record.sha256(name)})
        if run := run_identity():
            write_record(self.store, run, record, self.provenance)
        return metrics

    def _keep(self, name: str, path: Path) -> dict[str, str]:
        """Write an output into the store, under the hash of all that is in it; its files with their hashes."""
        store, found = self.checkpoints.store, _files(path)
        files = {relative: sha256_file(file) for relative, file in found}
        for relative, file in found:
            key = f"{kept_in(name, files)}/{relative or FILE}"
            if not store.holds(key, file.stat().st_size, files[relative]):
                store.write_file(key, file, files[relative])
        return files

    def _take(self, outputs: Mapping[str, Path], result: Mapping[str, Any]) -> None:
        """Put the outputs of a result in place, and say again what was warned of when they were made."""
        store, kept = self.checkpoints.store, result["outputs"]
        for name, path in outputs.items():
            for relative, digest in kept[name].items():
                key, target = f"{kept_in(name, kept[name])}/{relative or FILE}", path / check_key(relative) if relative else path
                if not (store.exists(key) and store.read_file(key, target, digest)):
                    raise StoreError(
                        f"The finished output {key!r} in {store.uri!r} is missing or damaged: delete that folder to make it again."
                    )
        for sentence in result.get("warnings", []):
            logger.warning("%s", sentence)


@contextmanager
def workbench(step: str, section: Section, inputs: Mapping[str, str]) -> Iterator[Workbench]:
    """Open a step: resolve the hardware, take the lock of its key, open tracker and progress.

    Args:
        step: name of the step's module.
        section: its parsed section.
        inputs: sha256 of every input, by name; each enters the key.

    Raises:
        ConfigError: the environment asks for a device, a store or a thread count that cannot be.
        CheckpointMismatchError: the section was made by other code than this, or a module of the user's own is another than then.
    """
    with reporting(step):
        check_code(step, section.code_version)
        check_own_sources(section.sources)
        folder, store = workspace(), open_run_store()
        runtime = runtime_here(section.precision)
        key = key_of(step, _origin(step, section, runtime, inputs))
        name, work = f"{step}-{key[:16]}", Work(step, key)
        with lock(folder / lock_of(work), f"{step} {key[:12]}"), Progress(folder / "progress", step) as progress:
            if run := run_identity():
                mark_opened(store, run, work)
            below = store.below(f"checkpoints/{step}/{key}")
            below.clean()
            with open_tracker(step, folder / "tracking" / name, key) as tracker:
                tracker.params(section.to_json())
                tracker.tags({"key": key, "code_version": code_version(), "inputs": dict(inputs), "hardware": runtime.key_fields()})
                yield Workbench(step, section, inputs, key, runtime, store, folder, Checkpoints(below), tracker, progress)


def open_run_store() -> Store:
    """The store that the environment names, else `store` in the workspace; in a pod only a bucket outlives the step.

    DISTILLERY_FOLDER_STORE=1 allows a folder there: commands that a person gives set it, as in a notebook, whose volume outlives its pod.

    Raises:
        ConfigError: a store that cannot be, or a folder in a pod.
    """
    named = os.environ.get("DISTILLERY_STORE") or ""
    store = open_store(named or str(workspace() / "store"))
    in_pod = os.environ.get("KUBERNETES_SERVICE_HOST") and os.environ.get("DISTILLERY_FOLDER_STORE") != "1"
    if in_pod and not store.remote:
        said = f"DISTILLERY_STORE = {named!r} is not allowed" if named else "DISTILLERY_STORE is not set"
        raise ConfigError(
            f"{said} in a pod, where a folder and all work in it is lost with the pod: give s3://bucket/prefix, in a pipeline by the "
            "ConfigMap that names the store."
        )
    return store


@contextmanager
def reporting(step: str) -> Iterator[None]:
    """Stop cleanly on signals, and leave the sentence of a failure where `distillery run` finds it.

    SIGTERM exits 143 and SIGINT 130, both by SystemExit, so that open files and locks are let go; a signal that whoever calls the step
    handles already (a notebook, a server, a test runner) stays theirs. The sentence of a DistilleryError is written to
    `<workspace>/errors/<step>.json` and the error goes on; want of memory is made one, wherever in the step it shows. What is warned of
    stands in `warnings/<step>.json`. Nothing that is logged names a password. In a host's process (`distillery.host`) signals, logging
    and the collector of garbage stay as the host has them. Usable as a decorator; may be nested.

    Args:
        step: name of the step's module.
    """
    path = workspace() / "errors" / f"{step}.json"
    with suppress(OSError):
        path.unlink()
    try:
        with nullcontext() if watcher() else _own_process(), guarded(f"{step} stopped", "", only_memory=True), keeping_warnings(step):
            yield
    except DistilleryError as error:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"step": step, "error": type(error).__name__, "message": str(error)}))
        raise


@contextmanager
def _own_process() -> Iterator[None]:
    """Signals, logging and garbage as a step wants them that has the process for itself; a host's are left alone."""
    redact_output()
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    previous = _listen()
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *thresholds[1:])
    _leave_at_once()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        for number, handler in previous.items():
            signal.signal(number, handler)


@functools.cache
def _leave_at_once() -> None:
    """Where kfp runs one step in a process of its own, spare its end the search for garbage among all of torch and MLflow: 1.4 s."""
    program = sys.modules["__main__"].__spec__
    if program is not None and program.name == "kfp.dsl.executor_main":
        atexit.register(_keep_garbage)


def _keep_garbage() -> None:
    gc.freeze()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # triton would list as leaked what is not searched for


def runtime_here(precision: Precision) -> Runtime:
    """The hardware that the environment asks for.

    Args:
        precision: of a section or recipe.

    Raises:
        ConfigError: a device or precision that cannot be, or a thread count that is no number.
    """
    threads = os.environ.get("DISTILLERY_THREADS") or "0"
    if not threads.isdecimal():
        raise ConfigError(f"DISTILLERY_THREADS = {threads!r} is not allowed: give a whole number, 0 for torch's choice.")
    return resolve_runtime(os.environ.get("DISTILLERY_DEVICE") or "auto", precision, int(threads))


def _origin(step: str, section: Section, runtime: Runtime, inputs: Mapping[str, str]) -> Provenance:
    """The provenance of what a step writes; the step's key is taken over it."""
    return Provenance(
        inputs=dict(inputs),
        config={**section.to_json(), "resolved": runtime.key_fields()},
        seeds={"run": section.seed},
        code_version=code_version(),
        step_version=step_version(step),
        packages=package_versions(section.packages),
    )


def _listen() -> dict[int, Any]:
    free = [number for number, handler in _UNHANDLED.items() if signal.getsignal(number) is handler]
    try:
        return {number: signal.signal(number, _stop) for number in free}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        return {}


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _remove(outputs: Mapping[str, Path], files: Mapping[str, Iterable[str]]) -> None:
    """Remove files of outputs that did not become the step's."""
    for name, path in outputs.items():
        for relative in files[name]:
            (path / relative if relative else path).unlink()


def _files(path: Path) -> list[tuple[str, Path]]:
    """Relative name and path of every file of an output; the name of a plain file is empty."""
    if path.is_file():
        return [("", path)]
    return [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*")) if file.is_file()]
