"""The process that holds kfp's local runner: its log stays out of the terminal, and stopping it is its parent's choice.

It is started by `local.py` as `python -m distillery_kfp.pipelines.runner.child REQUEST EVENTS`: REQUEST is a JSON file with the
pipeline, its arguments and kfp's root; EVENTS is the descriptor of a pipe that gets one JSON line for each step that starts or ends.
"""

import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from distillery.redaction import redact_output
from distillery.step_table import PIPELINES
from distillery_kfp.pipelines.metadata import component_of
from distillery_kfp.pipelines.runner import forkserver
from distillery_kfp.pipelines.runner.forkserver import ForkServer

logger = logging.getLogger(__name__)

_STARTED = re.compile(r"^Executing task \S*'([\w-]+)'")
_ENDED = re.compile(r"^Task \S*'([\w-]+)'\S* finished with status \S*(SUCCESS|FAILURE)")
_TERMINAL = re.compile(r"\x1b\[\d*m")


class Watch(logging.Filter):
    """Reads kfp's own log lines, tells the parent which step runs, and stops between two steps when asked to.

    Args:
        events: descriptor to write to.
    """

    def __init__(self, events: int) -> None:
        super().__init__()
        self.events = events
        self.running = False
        self.failed = False
        self.stopping = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Look at a record; every one is kept."""
        message = _TERMINAL.sub("", record.getMessage())
        if found := _STARTED.match(message):
            self._stop_here()
            if self.failed:
                raise SystemExit(1)  # kfp goes on with the other tasks of a loop, and the sentence of the one that failed would be lost
            self.running = True
            self._tell(found[1], "started")
        elif found := _ENDED.match(message):
            self.running, self.failed = False, self.failed or found[2] == "FAILURE"
            self._tell(found[1], "done" if found[2] == "SUCCESS" else "failed")
            self._stop_here()
        return True

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: a running step gets the same signal from our parent, and is waited for."""
        self.stopping = number
        if not self.running:
            self._stop_here()

    def _stop_here(self) -> None:
        if self.stopping:
            raise SystemExit(128 + self.stopping)

    def _tell(self, task: str, state: str) -> None:
        line = json.dumps({"step": component_of(task) or task, "state": state}) + "\n"
        os.write(self.events, line.encode())


def main() -> None:
    """Run the requested pipeline; exit 0 if every step succeeded, 1 if one failed."""
    redact_output()
    request = json.loads(Path(sys.argv[1]).read_bytes())
    watch = Watch(int(sys.argv[2]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, watch.stop)
    threading.Thread(target=_follow_parent, daemon=True).start()
    logging.getLogger().addFilter(watch)
    with _forking(request["pipeline"]):
        from kfp import local

        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=request["root"], raise_on_error=False)
        _load(request["pipeline"])(**request["arguments"])


def imported(pipeline: str) -> tuple[list[str], list[str]]:
    """What the steps of a pipeline import sooner or later, as a `ForkServer` takes it: for the plan, and later, with versions of all."""
    first, *steps = (f"distillery.steps.{step}" for step in PIPELINES[pipeline].steps)
    versions = "distillery.workbench.keys:take_versions"  # hours later the sources may be others than those that run
    # torch._dynamo: by the first optimizer of a process
    return ["kfp.dsl", first], ["distillery.tracking.open:preload", "torch._dynamo", *steps, versions]


@contextmanager
def _forking(pipeline: str) -> Iterator[None]:
    """Let kfp start its steps by forks of one process that has imported what they need, where that can be done."""
    python = sys.executable
    server = _server(pipeline)
    with server or nullcontext():
        sys.executable = shlex.join(server.command if server else [python])  # kfp writes it into a shell's line, where that says python3
        try:
            yield
        finally:
            sys.executable = python


def _server(pipeline: str) -> ForkServer | None:
    """None where steps have to start Python anew."""
    first, later = imported(pipeline)
    try:
        return ForkServer(first, {"_KFP_RUNTIME": "true"}, later) if forkserver.AVAILABLE else None
    except OSError as error:
        logger.warning("Each step starts Python anew, which takes seconds, because this system refuses a fork server: %s", error)
        return None


def _load(pipeline: str) -> Any:
    """The compiled pipeline as a callable, without the paths of pods and without retries: a local failure is the user's, at once.

    Tasks that a cluster runs side by side come one after another: each would want all cores, and the memory that its shard was cut for.
    """
    from kfp import components

    from distillery_kfp.pipelines.compile import compile_documents

    documents = compile_documents(pipeline)
    specification = documents[0]
    for graph in (specification["root"], *specification["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
            if "parameterIterator" in task:
                task["iteratorPolicy"] = {"parallelismLimit": 1}
    for executor in specification["deploymentSpec"]["executors"].values():
        executor["container"].pop("env", None)
    return components.load_component_from_text(yaml.safe_dump_all(documents))


def _follow_parent() -> None:
    # our standard input is a pipe that the parent holds open: its end means that the parent was killed
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    main()
