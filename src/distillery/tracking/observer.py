"""The observer on an MLflow server or a sqlite file: a step's records, and the run of its pipeline. Imports no mlflow itself.

A dead server costs a step one bounded wait and one warning: what it did not take goes to JSON files instead. Only `register`
raises.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillery.environment import environment
from distillery.errors import DistilleryError, StoreError
from distillery.tracking.flatten import flatten, json_bytes, metric_names, relative_name
from distillery.tracking.guard import first_line, within
from distillery.tracking.mlflow import connect, guard_of, log_dataset, log_metrics, log_missing, log_params, log_student, log_tags
from distillery.tracking.null import NullTracker
from distillery.tracking.patience import ARTIFACT_SECONDS, CLOSING_SECONDS, opening_seconds, patience
from distillery.tracking.protocol import PREFIX, Candidate, Registered, RegistrationConfig, Serve, Status
from distillery.tracking.registry import register_version
from distillery.tracking.runs import ActiveRun, end

log = logging.getLogger(__name__)


class MlflowTracker:
    """One step's run, joined, found again or made at once; every later record is one batch."""

    def __init__(self, step: str, fallback: Path, key: str, uri: str) -> None:
        """Open the run of `step`; where that fails, it is tried again after a pause."""
        self._step, self._key, self._uri = step, key, uri
        self._null = NullTracker(fallback)
        self._link: ActiveRun | None = None
        self._missed = 0
        self._guard = guard_of(uri, f"the step goes on and its records go to {fallback} until it answers")
        self._guard.attempt(self._begin, opening_seconds(uri))

    @property
    def run_id(self) -> str:
        """The run's id, empty while MLflow does not answer."""
        return self._link.run_id if self._link else ""

    @property
    def parent_id(self) -> str:
        """The pipeline run's id, empty where there is none."""
        return self._link.parent_id if self._link else ""

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the configuration; what a resumed run holds already is left, a changed value becomes a tag `.../changed/...`."""
        flat = flatten(values)
        self._record(lambda link: log_params(link, flat), lambda: self._null.params(flat))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at an epoch or round, in one call."""
        numbers = metric_names(values)
        self._record(lambda link: log_metrics(link, numbers, step), lambda: self._null.metrics(numbers, step))

    def catch_up(self, rounds: Sequence[Mapping[str, float]]) -> None:
        """Record what the run lacks: it is asked which steps it has of each number."""
        told = [metric_names(values) for values in rounds]
        self._record(lambda link: log_missing(link, told), lambda: self._null.catch_up(rounds), ARTIFACT_SECONDS)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record hashes and addresses."""
        flat = flatten(values)
        self._record(lambda link: log_tags(link, flat), lambda: self._null.tags(flat))

    def text(self, name: str, content: str) -> None:
        """Record a text file."""
        self.image(name, content.encode())

    def json(self, name: str, value: Any) -> None:
        """Record a JSON file."""
        self.image(name, json_bytes(value))

    def image(self, name: str, png: bytes) -> None:
        """Record the bytes of a PNG."""
        path = relative_name(name)

        def upload(link: ActiveRun) -> None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / path.name
                file.write_bytes(png)
                link.client.log_artifact(link.run_id, str(file), str(path.parent) if path.parent.parts else None)

        self._record(upload, lambda: self._null.image(name, png), ARTIFACT_SECONDS)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or everything in a folder."""
        target = str(relative_name(folder)) if folder else None

        def upload(link: ActiveRun) -> None:
            send = link.client.log_artifacts if path.is_dir() else link.client.log_artifact
            send(link.run_id, str(path), target)

        self._record(upload, lambda: self._null.artifact(path, folder), ARTIFACT_SECONDS)

    def dataset(self, name: str, uri: str, digest: str, context: str) -> None:
        """Record a data set as an input of the run; MLflow keeps the first 36 characters of a digest."""
        self._record(lambda link: log_dataset(link, name, uri, digest, context), lambda: self._null.dataset(name, uri, digest, context))

    def register(self, bundle: Path, config: RegistrationConfig, candidate: Candidate, serve: Serve | None = None) -> Registered:
        """Register the bundle; waits longer than a record would, and is loud.

        Raises:
            StoreError: MLflow did not take it.
        """
        try:
            with environment(patience()):
                link = self._open()
                return register_version(link, lambda tags: log_student(link, bundle, serve, tags), config, candidate)
        except DistilleryError:
            raise
        except Exception as error:
            raise StoreError(
                f"The student was not registered as {config.model_name!r}, because MLflow at {self._uri} failed ({first_line(error)}): "
                "bring it up, or unset MLFLOW_TRACKING_URI to go without a registry, and run the step again."
            ) from error

    def close(self, status: Status = "FINISHED") -> None:
        """End the run, and with a step that did not finish its pipeline's; says how many records it missed."""
        self._guard.attempt(lambda: self._end(status), CLOSING_SECONDS, insist=self._link is not None)
        if self._missed:
            log.warning("%d records of %s are in %s, because %s failed.", self._missed, self._step, self._null.folder, self._guard.name)

    def _end(self, status: Status) -> None:
        link = self._open()
        if self._missed:
            log_tags(link, {PREFIX + "missed_records": str(self._missed)})
        end(link, status)

    def _open(self) -> ActiveRun:
        if self._link is None:
            self._link = connect(self._uri).step(self._step, self._key)
        return self._link

    def _begin(self) -> None:
        self._open()

    def _record(self, write: Callable[[ActiveRun], None], instead: Callable[[], None], deadline: float = 0.0) -> None:
        if not self._guard.attempt(lambda: write(self._open()), deadline):
            self._missed += 1
            instead()


class MlflowParent:
    """The run of a whole pipeline, opened by its first step and closed by its last or by the command line."""

    def __init__(self, uri: str) -> None:
        """Use the MLflow at `uri`."""
        self._uri = uri
        self._guard = guard_of(uri, "the pipeline goes on without its run")

    def open(self, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        """Find or make the run and record the recipe in it; an injected run takes the record instead.

        Returns:
            The run's id, empty without `KFP_RUN_ID` or where MLflow does not answer.
        """
        opened: list[str] = []
        self._guard.attempt(lambda: opened.append(self._open(name, flatten(params), flatten(tags))), opening_seconds(self._uri))
        return opened[0] if opened else ""

    def close(self, status: Status) -> None:
        """End the run, unless the KFP plugin made it; of one that failed its own sentence is told, and no second about MLflow."""
        if os.environ.get("MLFLOW_RUN_ID"):
            return
        if status == "FINISHED":
            self._guard.attempt(lambda: self._close(status), opening_seconds(self._uri))
        else:
            within(lambda: self._close(status), opening_seconds(self._uri))

    def _open(self, name: str, params: dict[str, str], tags: dict[str, str]) -> str:
        runs = connect(self._uri)
        injected = os.environ.get("MLFLOW_RUN_ID")
        run = runs.client.get_run(injected) if injected else runs.pipeline(name)
        if run is None:
            return ""
        link = ActiveRun(runs.client, runs.experiment_id, run.info.run_id, params=dict(run.data.params))
        log_params(link, params)
        log_tags(link, tags)
        return link.run_id

    def _close(self, status: Status) -> None:
        runs = connect(self._uri)
        run = runs.pipeline()
        if run is not None and PREFIX + "role" in run.data.tags:
            runs.client.set_terminated(run.info.run_id, status)
