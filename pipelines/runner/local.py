"""A pipeline on this machine: kfp's local runner in a process of its own, watched, stopped and accounted for by this one."""

import json
import logging
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from types import FrameType
from typing import Any, Literal

from rich.console import Console

from distillery import errors
from distillery.environment import environment
from distillery.errors import DistilleryError, StoreError
from distillery.extras import installed, need
from distillery.ledger.runs import RunState, amend_run, set_place
from distillery.provenance import dump_json
from distillery.step_table import PIPELINES
from distillery.storage import Store, join_uri, open_store
from distillery.storage.locks import lock
from distillery_kfp.pipelines.form import NO_PROMISE, check_form
from distillery_kfp.pipelines.runner.display import Display
from distillery_kfp.pipelines.runner.request import RunRequest as RunRequest
from distillery_kfp.pipelines.runner.rollback import Rollback

logger = logging.getLogger(__name__)

_SHARED_CORES = {"GOMP_SPINCOUNT": "2000"}  # torch's threads wait so long for each other that one more process makes them ten times slower
_POLL_SECONDS = 0.2
_OUTPUTS = {"student": "student", "report": "evaluation", "page": "page", "class_statistics": "statistics"}
"""What a run's last steps write, and what its record calls it."""
_REMIND_SECONDS = 10.0  # a signal that falls between two processes is lost, so it is sent again


@dataclass(frozen=True)
class RunResult:
    """What came out.

    Attributes:
        run_id: names the run in the store and in the tracking database.
        pipeline: what ran.
        made: what its last steps made, by artifact, as files and folders of the store; where that is remote, the copies in the workspace.
        uri: opens in the store what the run was for: its student, or the statistics of each class.
        dataset: reference of the images that the run worked on: their kind, `set` for a synthetic one or `images`, address and sha256.
        log: everything that kfp and the steps said.
        tracking_uri: where MLflow keeps the run.
        seconds: wall time.
        command: runs it again.
    """

    run_id: str
    pipeline: str
    made: Mapping[str, Path]
    uri: str
    dataset: dict[str, str]
    log: Path
    tracking_uri: str
    seconds: float
    command: str = ""

    @property
    def student(self) -> Path:
        """The student's bundle, a folder; of a run that trains one."""
        return self.made["student"]

    @property
    def report(self) -> Path:
        """The evaluation's report, a file; of such a run."""
        return self.made["report"]

    @property
    def page(self) -> Path:
        """The same and the whole run as a page to look at, a file; of such a run."""
        return self.made["page"]


def execute(request: RunRequest, console: Console) -> RunResult:
    """Run a recipe; one that was stopped goes on where it was.

    Args:
        request: what to run.
        console: where progress is shown.

    Raises:
        DistilleryError: the sentence of the step that failed. What the plan refuses leaves no trace in the store; a run that fails
            later leaves its record, so that it can be resumed.
        SystemExit: the run was stopped by SIGINT (130) or SIGTERM (143); its steps have ended by then.
    """
    need("kubeflow", "A pipeline on this machine")
    pipeline = request.pipeline()
    check_form(pipeline, request.arguments())
    store = open_store(request.store)
    for folder, flag in ((store.local_path("runs"), "--store"), (request.workdir, "--workdir")):
        check_writable(folder, flag)
    if store.remote:
        store.exists("runs")  # a server that cannot be reached, or refuses us, is told before anything is started
    run = _Run(request, pipeline, store)
    with lock(request.workdir / "locks" / "run.lock", f"The workspace {str(request.workdir)!r} (another --workdir would not wait)"):
        run.prepare()
        with Display(console, PIPELINES[pipeline], request.workdir / "progress", request.workdir / "warnings") as display:
            code = run.watch(display)
        if code:
            run.fail(code)
        return run.close()


def check_writable(folder: Path | None, flag: str) -> None:
    """Refuse a folder that could not be written, without writing anything.

    Raises:
        StoreError: a regular file stands in its way, or this user may not write there.
    """
    if folder is None:
        return
    nearest = next(part for part in (folder, *folder.parents) if part.exists())
    if not nearest.is_dir():
        raise StoreError(f"{flag} {str(folder)!r} cannot be written: {str(nearest)!r} is a regular file; choose another folder.")
    if not os.access(nearest, os.W_OK):
        raise StoreError(f"{flag} {str(folder)!r} cannot be written: this user may not write in {str(nearest)!r}; choose another folder.")


class _Run:
    """One run: its files, its process, its end."""

    def __init__(self, request: RunRequest, pipeline: str, store: Store) -> None:
        now = datetime.now(UTC)
        self.request, self.pipeline, self.store = request, pipeline, store
        self.id = request.run_id or f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.root = request.workdir / "kfp" / self.id
        self.log = request.workdir / "logs" / f"{self.id}.log"
        self.began, self.began_at = time.monotonic(), now
        self.planned = False
        self.failed = ""
        self.stopped = 0

    def prepare(self) -> None:
        """Make the workspace, without what the run before left to be shown.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._make_workspace()
        except OSError as error:
            raise StoreError(
                f"--workdir {str(self.request.workdir)!r} cannot be written ({error.strerror}): choose another folder."
            ) from None
        self.rollback = Rollback(self.store, self.id)

    def _make_workspace(self) -> None:
        for name in ("progress", "errors", "warnings"):
            rmtree(self.request.workdir / name, ignore_errors=True)
        rmtree(self.root, ignore_errors=True)  # of the same run, before it was stopped
        for folder in (self.root / "tmp", self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        arguments = {**NO_PROMISE, **self.request.arguments()}
        request = {"pipeline": self.pipeline, "arguments": arguments, "root": str(self.root)}
        (self.root / "request.json").write_bytes(dump_json(request))

    def environment(self) -> dict[str, str]:
        """What steps read from their environment."""
        chosen = {
            "DISTILLERY_STORE": self.store.uri,
            "DISTILLERY_WORKDIR": str(self.request.workdir),
            "DISTILLERY_FOLDER_STORE": "1",
            "KFP_RUN_ID": self.id,
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONUNBUFFERED": "1",
        }
        if self.request.device:
            chosen["DISTILLERY_DEVICE"] = self.request.device
        if self.request.threads:
            chosen["DISTILLERY_THREADS"] = str(self.request.threads)
        return {**_SHARED_CORES, **os.environ, "MLFLOW_TRACKING_URI": self.tracking_uri(), **chosen}

    def tracking_uri(self) -> str:
        """The environment's tracking server, else a database in the workspace; "" without MLflow, where JSON files take its place."""
        database = f"sqlite:///{self.request.workdir / 'mlflow.db'}" if installed("mlflow") else ""
        return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or database

    def watch(self, display: Display) -> int:
        """Start the process, show its steps, pass signals on, and return how it ended (negative: by that signal)."""
        arrivals: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        reminded = time.monotonic()
        with self._process(arrivals) as process, self._passing_signals(process):
            while process.poll() is None:
                self._drain(arrivals, display)
                display.refresh()
                if self.stopped and time.monotonic() - reminded > _REMIND_SECONDS:
                    self._forward(process)
                    reminded = time.monotonic()
                time.sleep(_POLL_SECONDS)
        self._drain(arrivals, display)
        return -self.stopped if self.stopped else process.returncode or int(bool(self.failed))

    def fail(self, code: int) -> None:
        """Raise what the run ended with.

        Raises:
            DistilleryError: the failed step's own sentence.
            SystemExit: stopped by a signal, or a bug of ours, whose traceback is shown.
        """
        if self.planned:
            self._close_tracking("KILLED" if self.stopped else "FAILED")
        if self.stopped:
            self._note("stopped")
            raise SystemExit(128 + self.stopped)
        for path in sorted((self.request.workdir / "errors").glob("*.json")):
            if error := _read_error(path):
                if not self.rollback.undo():
                    self._note("failed", str(error))
                raise error
        self._note("failed", f"Step {self.failed} ended without a word of its own (exit {code}).")
        tail = self.log.read_text(errors="replace").splitlines()[-15:]
        logger.error(
            "Step %s ended without a word of its own (exit %s); the log %s ends:\n%s", self.failed, code, self.log, "\n".join(tail)
        )
        raise SystemExit(1)

    def close(self) -> RunResult:
        """Note how long it took, and read what its last step noted: where everything lies."""
        seconds = time.monotonic() - self.began
        times = {"began": self.began_at.isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
        state = RunState.here("finished", self.request.workdir, self.store).to_json()
        record = amend_run(self.store, self.id, {**times, "state": state})
        results, source = record["results"], record["sections"].get("source", {"is_set": True})
        kind = "set" if source["is_set"] else "images"
        rmtree(self.root / "tmp", ignore_errors=True)
        places = {name: results[place] for name, place in _OUTPUTS.items() if place in results}
        return RunResult(
            run_id=self.id,
            pipeline=self.pipeline,
            made={name: self.store.local_path(place) or self._artifact(name) for name, place in places.items()},
            uri=join_uri(self.store.uri, next(iter(places.values()))),
            dataset={"kind": kind, "uri": set_place(results, self.store.uri), "sha256": results["dataset"]["sha256"]},
            log=self.log,
            tracking_uri=self.tracking_uri(),
            seconds=seconds,
            command=replace(self.request, run_id="").command(),
        )

    @contextmanager
    def _process(self, arrivals: "queue.SimpleQueue[dict[str, str]]") -> Iterator[subprocess.Popen[bytes]]:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "distillery_kfp.pipelines.runner.child", str(self.root / "request.json"), str(writing)]
        with self.log.open("ab") as log:
            # its own session: Ctrl-C reaches it through us only; the pipe to its input tells it when we are gone
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                pass_fds=(writing,),
                start_new_session=True,
            )
        os.close(writing)
        reader = threading.Thread(target=_read_events, args=(reading, arrivals), daemon=True)
        reader.start()
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            reader.join()

    @contextmanager
    def _passing_signals(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopped = number
            self._forward(process)

        try:
            previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, self.stopped)

    def _drain(self, arrivals: "queue.SimpleQueue[dict[str, str]]", display: Display) -> None:
        while not arrivals.empty():
            self._take(arrivals.get(), display)

    def _take(self, event: dict[str, str], display: Display) -> None:
        if event["state"] == "started":
            display.started(event["step"])
            return
        succeeded = event["state"] == "done"
        if succeeded and event["step"] == "plan":
            self.planned = True
            self._note("running")
        self.failed = "" if succeeded else event["step"]
        if not self.stopped:
            display.ended(event["step"], succeeded)

    def _artifact(self, name: str) -> Path:
        """The one output of that name; steps that read it get its path, so it is written once."""
        found = [path for path in self.root.glob(f"*/*/{name}") if path.exists()]
        assert len(found) == 1, f"{len(found)} outputs are called {name} below {self.root}"
        return found[0]

    def _note(self, name: Literal["running", "stopped", "failed"], message: str = "") -> None:
        """Tell the run's record how it stands; before the plan has written one there is none."""
        state = RunState.here(name, self.request.workdir, self.store, message).to_json()
        try:
            if self.store.exists(f"runs/{self.id}/run.json"):
                amend_run(self.store, self.id, {"state": state, "environment": self.request.surroundings()})
        except DistilleryError as error:  # what stopped the run may be the store
            logger.warning("The record of run %s does not say that it is %s: %s", self.id, name, error)

    def _close_tracking(self, status: Any) -> None:
        from distillery.tracking.open import close_parent

        chosen = self.environment()
        with environment({name: chosen[name] for name in ("MLFLOW_TRACKING_URI", "KFP_RUN_ID", "DISTILLERY_WORKDIR")}):
            close_parent(status)


def _read_error(path: Path) -> DistilleryError | None:
    """What a step said when it failed; None where the disk was too full for its sentence."""
    try:
        said = json.loads(path.read_bytes())
        kind = getattr(errors, str(said["error"]), DistilleryError)
        return kind(str(said["message"])) if issubclass(kind, DistilleryError) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _read_events(descriptor: int, arrivals: "queue.SimpleQueue[dict[str, str]]") -> None:
    with os.fdopen(descriptor, "r") as lines:
        for line in lines:
            arrivals.put(json.loads(line))
