"""Runs steps in processes that can be killed at a named moment; production code knows nothing of it.

Each line of stdin is a job (JSON), done by a forked child, which spares it the imports: the environment, the steps to run one after
another, and the target, if any: the child stops for good in the middle of one write, its file half written and not yet renamed, says so
on stdout and waits there to be killed. Every finished round is announced too, and how the child ended.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from distillery import provenance, storage
from distillery.api.running import run_step
from distillery.engine import checkpoint, session
from distillery.methods.catalog import METHODS
from toy_methods import TOYS


class Saboteur:
    """Watches writes and rounds from outside.

    Args:
        target: {"step", "kind", "round"}; kind is payload, pointer, shard, snapshot, sample or history. Empty watches only.
    """

    def __init__(self, target: dict[str, Any]) -> None:
        self.target = target
        self.step = ""
        self.round = 0
        self.key = ""
        self._write = storage.FolderStore.write
        self._write_file = storage.FolderStore.write_file
        self._fsync = os.fsync
        self._note = session.Session.note
        self._load = checkpoint.Checkpoints.load

    def install(self) -> None:
        """Wrap what is watched."""
        watcher = self

        def write(store: storage.FolderStore, key: str, data: bytes) -> None:
            watcher.key = key
            watcher._write(store, key, data)
            watcher.key = ""

        def write_file(store: storage.FolderStore, key: str, *args: Any, **kwargs: Any) -> None:
            watcher.key = key
            watcher._write_file(store, key, *args, **kwargs)
            watcher.key = ""

        def fsync(descriptor: int) -> None:
            if watcher.is_meant() and os.path.isfile(file := f"/proc/self/fd/{descriptor}"):
                os.truncate(file, os.fstat(descriptor).st_size // 2)
                say(event="paused", step=watcher.step, round=watcher.round, key=watcher.key)
                time.sleep(600)
            watcher._fsync(descriptor)

        def note(self: session.Session, *args: Any, **kwargs: Any) -> None:
            watcher._note(self, *args, **kwargs)
            watcher.round = self.done
            say(event="round", step=watcher.step, round=self.done)

        def load(self: checkpoint.Checkpoints) -> Any:
            found = watcher._load(self)
            watcher.round = found[0] if found else 0
            say(event="resumed", step=watcher.step, round=watcher.round)
            return found

        storage.FolderStore.write = write
        storage.FolderStore.write_file = write_file
        os.fsync = fsync
        session.Session.note = note
        checkpoint.Checkpoints.load = load

    def is_meant(self) -> bool:
        """Whether the file now being written is the target's."""
        kinds = {
            "payload": "payloads/",
            "pointer": "latest.json",
            "shard": "shards/",
            "snapshot": "snapshots/",
            "sample": "sample/",
            "history": "history/",
        }
        return bool(
            self.target
            and self.step == self.target["step"]
            and self.round == self.target["round"]
            and self.key.startswith(kinds[self.target["kind"]])
        )


def say(**event: Any) -> None:
    """One line of JSON to the parent."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def work(job: dict[str, Any]) -> None:
    """Run one job."""
    os.environ.update(job["environment"])
    saboteur = Saboteur(job["target"])
    saboteur.install()
    for step, given in job["steps"]:
        saboteur.step = step
        places = {name: Path(place) for name, place in given["places"].items()}
        run_step(step, given["section"], places, {"teacher_uri": given["teacher_uri"], **given.get("settings", {})})
        say(event="finished", step=step)


def main() -> None:
    """Do jobs until stdin ends."""
    for name in ("distill_online", "train_student", "train_generator", "materialize"):
        importlib.import_module(f"distillery.steps.{name}")
    METHODS.update({name: toy.row for name, toy in TOYS.items()})
    for row in METHODS.values():
        row.load()
    importlib.import_module("torch._dynamo")  # the first optimizer of a process imports it, for seconds
    provenance.code_version()  # one for all children, also where somebody edits meanwhile
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            say(event="started", pid=os.getpid())
            work(json.loads(line))
            sys.stdout.flush()
            os._exit(0)
        say(event="ended", status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
