"""The observer that needs no server: JSON files beside a step's outputs."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distillery.tracking.flatten import finite_or_text, flatten, json_bytes, metric_names, relative_name
from distillery.tracking.protocol import Candidate, Registered, RegistrationConfig, Serve, Status

log = logging.getLogger(__name__)


class NullTracker:
    """Writes params.json, tags.json, datasets.json, metrics.jsonl and artifacts/ into a folder made at the first record.

    A folder that is there already is gone on with, so that a resumed step keeps its records.
    """

    run_id = ""
    parent_id = ""

    def __init__(self, folder: Path) -> None:
        """Observe into `folder`."""
        self.folder = folder
        self._warned = False

    def params(self, values: Mapping[str, Any]) -> None:
        """Merge the settings into params.json."""
        self._safely(lambda: self._merge("params.json", flatten(values)))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Merge the tags into tags.json."""
        self._safely(lambda: self._merge("tags.json", flatten(values)))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Append one line to metrics.jsonl; a number that is not finite is written as text."""
        numbers = {name: finite_or_text(value) for name, value in metric_names(values).items()}
        line = json.dumps({"step": step, **numbers}, sort_keys=True, allow_nan=False)
        self._safely(lambda: self._append("metrics.jsonl", line + "\n"))

    def catch_up(self, rounds: Sequence[Mapping[str, float]]) -> None:
        """Append the lines that metrics.jsonl does not have."""
        known = _steps(self.folder / "metrics.jsonl")
        for step, values in enumerate(rounds, start=1):
            if values and step not in known:
                self.metrics(values, step)

    def text(self, name: str, content: str) -> None:
        """Write artifacts/NAME."""
        self.image(name, content.encode())

    def json(self, name: str, value: Any) -> None:
        """Write artifacts/NAME."""
        self.image(name, json_bytes(value))

    def image(self, name: str, png: bytes) -> None:
        """Write artifacts/NAME."""
        path = self.folder / "artifacts" / relative_name(name)
        self._safely(lambda: _replace(path, png))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or a folder's content below artifacts/FOLDER."""
        target = self.folder / "artifacts"
        if folder:
            target /= relative_name(folder)
        self._safely(lambda: _copy(path, target))

    def dataset(self, name: str, uri: str, digest: str, context: str) -> None:
        """Add the data set to datasets.json."""
        entry = {f"{context}/{name}": {"uri": uri, "digest": digest}}
        self._safely(lambda: self._merge("datasets.json", entry))

    def register(self, bundle: Path, config: RegistrationConfig, candidate: Candidate, serve: Serve | None = None) -> Registered:
        """Register nothing, and say so."""
        return Registered(
            model_name=config.model_name,
            metric=candidate.metric,
            value=candidate.value,
            reason="MLFLOW_TRACKING_URI is not set, so nothing was registered.",
        )

    def close(self, status: Status = "FINISHED") -> None:
        """Do nothing: every record is on disk already."""

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._warned:
                log.warning("The records in %s cannot be written (%s); the step goes on without them.", self.folder, error)
            self._warned = True

    def _merge(self, name: str, values: Mapping[str, Any]) -> None:
        path = self.folder / name
        _replace(path, json_bytes({**_known(path), **values}))

    def _append(self, name: str, line: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a") as file:
            file.write(line)


def _steps(path: Path) -> set[int]:
    """The steps that a file of metrics has lines of; a line cut short, by a full disk or a killed writer, is none."""
    steps = set()
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                steps.add(int(json.loads(line)["step"]))
    return steps


def _known(path: Path) -> dict[str, Any]:
    """What was recorded before; nothing where that was damaged, for records are only looked at."""
    try:
        known = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        log.warning("The records in %s were damaged and begin anew.", path)
        return {}
    return known


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _copy(path: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copy2(path, target / path.name)
