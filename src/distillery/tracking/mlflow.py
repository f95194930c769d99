"""The observer on an MLflow server or a sqlite file; the only module that imports mlflow, and only when a run is opened.

A dead server costs a step one bounded wait and one warning: what it did not take goes to JSON files instead. Only `register`
raises.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from distillery.environment import environment
from distillery.errors import DistilleryError, MissingResourceError, StoreError
from distillery.extras import need
from distillery.redaction import redact
from distillery.tracking.flatten import flatten, json_bytes, metric_names, relative_name
from distillery.tracking.guard import Guard, first_line, within
from distillery.tracking.null import NullTracker
from distillery.tracking.patience import ARTIFACT_SECONDS, CLOSING_SECONDS, IMPORT_SECONDS, opening_seconds, patience, set_impatience
from distillery.tracking.protocol import PREFIX, SERVED_FILE, Candidate, Registered, RegistrationConfig, Serve, ServedModel, Status, Version
from distillery.tracking.registry import MODEL_ID, register_version
from distillery.tracking.runs import ActiveRun, Runs, end

log = logging.getLogger(__name__)

LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 6000, 5000, 36
PARAMS_PER_BATCH, TAGS_PER_BATCH, METRICS_PER_BATCH = 100, 100, 1000


class MlflowTracker:
    """One step's run, joined, found again or made at once; every later record is one batch."""

    def __init__(self, step: str, fallback: Path, key: str, uri: str) -> None:
        """Open the run of `step`; where that fails, it is tried again after a pause."""
        self._step, self._key, self._uri = step, key, uri
        self._null = NullTracker(fallback)
        self._link: ActiveRun | None = None
        self._missed = 0
        self._guard = _guard(uri, f"the step goes on and its records go to {fallback} until it answers")
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
        self._guard = _guard(uri, "the pipeline goes on without its run")

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


def connect(uri: str) -> Runs:
    """A client, and the experiment that it writes into."""
    from mlflow import MlflowClient

    return Runs(MlflowClient(tracking_uri=uri), uri)


def log_params(link: ActiveRun, values: Mapping[str, str]) -> None:
    """Write parameters that the run does not hold; a value that differs from the held one is written as a tag."""
    from mlflow.entities import Param

    cut = {name: text[:LONGEST_PARAM] for name, text in values.items()}
    new = [Param(name, text) for name, text in cut.items() if name not in link.params]
    for start in range(0, len(new), PARAMS_PER_BATCH):
        link.client.log_batch(link.run_id, params=new[start : start + PARAMS_PER_BATCH])
    changed = {name: text for name, text in cut.items() if link.params.get(name, text) != text}
    log_tags(link, {f"{PREFIX}changed/{name.removeprefix(PREFIX)}": text for name, text in changed.items()})
    link.params.update({name: text for name, text in cut.items() if name not in link.params})


def log_metrics(link: ActiveRun, numbers: Mapping[str, float], step: int) -> None:
    """Write numbers at a step; MLflow keeps nan, and infinity as its largest number."""
    _log_metrics(link, [(name, value, step) for name, value in numbers.items()])


def log_missing(link: ActiveRun, rounds: Sequence[Mapping[str, float]]) -> None:
    """Write those numbers that the run does not have at their step, the first at step 1."""
    names = dict.fromkeys(name for numbers in rounds for name in numbers)
    known = {name: {metric.step for metric in link.client.get_metric_history(link.run_id, name)} for name in names}
    told = ((name, value, step) for step, numbers in enumerate(rounds, start=1) for name, value in numbers.items())
    _log_metrics(link, [(name, value, step) for name, value, step in told if step not in known[name]])


def _log_metrics(link: ActiveRun, values: Sequence[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(name, value, now, step) for name, value, step in values]
    for start in range(0, len(batch), METRICS_PER_BATCH):
        link.client.log_batch(link.run_id, metrics=batch[start : start + METRICS_PER_BATCH])


def log_tags(link: ActiveRun, values: Mapping[str, str]) -> None:
    """Write tags, cut to the length that MLflow keeps."""
    from mlflow.entities import RunTag

    batch = [RunTag(name, text[:LONGEST_TAG]) for name, text in values.items()]
    for start in range(0, len(batch), TAGS_PER_BATCH):
        link.client.log_batch(link.run_id, tags=batch[start : start + TAGS_PER_BATCH])


def log_dataset(link: ActiveRun, name: str, uri: str, digest: str, context: str) -> None:
    """Write a data set as an input of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = next((kind for kind in ("s3", "http") if uri.startswith((f"{kind}://", f"{kind}s://"))), "local")
    source = json.dumps({"url" if kind == "http" else "uri": uri})  # as `mlflow.data.get_source` reads it
    entry = Dataset(name=name, digest=digest[:LONGEST_DIGEST], source_type=kind, source=source)
    tags = [InputTag("mlflow.data.context", context), InputTag(PREFIX + "sha256", digest)]
    link.client.log_inputs(link.run_id, datasets=[DatasetInput(entry, tags)])


def log_student(link: ActiveRun, bundle: Path, serve: Serve | None, tags: Mapping[str, str]) -> dict[str, str]:
    """Keep a student as a logged model: what pyfunc loads, and the bundle that it was made from below `bundle/`.

    Returns:
        The version's further tags.
    """
    from mlflow.entities import LoggedModelOutput

    client = link.client
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "model"
        (Path(folder) / "served").mkdir()
        served = serve(Path(folder) / "served") if serve else None
        if served:
            write_pyfunc(staged, served)
        shutil.copytree(bundle, staged / "bundle")
        said = {**tags, **flatten(served.tags if served else {})}
        model = client.create_logged_model(link.experiment_id, name="student", source_run_id=link.run_id, tags=said, model_type="student")
        try:
            client.log_model_artifacts(model.model_id, str(staged))
            client.finalize_logged_model(model.model_id, "READY")
        except BaseException:
            with suppress(Exception):  # whatever stopped the first call may stop this one
                client.finalize_logged_model(model.model_id, "FAILED")
            raise
    client.log_outputs(link.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return {**said, MODEL_ID: model.model_id}


def write_pyfunc(folder: Path, served: ServedModel) -> None:
    """A folder that `mlflow.pyfunc.load_model` and `mlflow.pytorch.load_model` read: a traced graph, no pickle, nothing of ours.

    The pt2 file is taken as it is, for `mlflow.pytorch.save_model` would trace it again. It is served on the CPU, because a traced graph
    stays on the device it was traced on and pyfunc would ask for CUDA wherever there is one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow warns of its own type hints
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    file = PurePosixPath(SERVED_FILE)
    data = served.model.parent / file.parent.name
    data.mkdir()
    shutil.copyfile(served.model, data / file.name)
    float32 = served.example.dtype
    inputs, outputs = (-1, *served.example.shape[1:]), (-1, served.num_classes)
    model = Model()
    model.add_flavor("pytorch", model_data=str(file.parent), pytorch_version=metadata.version("torch"), code=None)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # it warns of environments without pip
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module="mlflow.pytorch",
        data_path=str(data),
        mlflow_model=model,
        signature=ModelSignature(Schema([TensorSpec(float32, inputs)]), Schema([TensorSpec(float32, outputs)])),
        input_example=served.example,
        pip_requirements=list(served.requirements),
        model_config={"device": "cpu"},
    )


def read_version(uri: str, name: str, number: str, alias: str) -> Version:
    """What the registry says of a version, named by its number or else by an alias.

    Raises:
        MissingResourceError: there is none.
        StoreError: MLflow does not answer.
    """
    with _asking(uri, f"the version {name}:{number}" if number else f"the version {name}@{alias}"):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        found = client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
        held = client.get_registered_model(name).aliases
    aliases = tuple(sorted(name for name, version in held.items() if str(version) == str(found.version)))
    tags = {name.removeprefix(PREFIX): str(text) for name, text in found.tags.items()}
    return Version(name, str(found.version), aliases, tags, found.run_id or "", redact(uri))


def fetch_version(uri: str, name: str, number: str, folder: Path) -> Path:
    """Copy a version's files below a folder.

    Raises:
        MissingResourceError: MLflow knows the version, but not its files.
        StoreError: MLflow or its artifact store does not answer.
    """
    with _asking(uri, f"the files of the version {name}:{number}"):
        from mlflow.artifacts import download_artifacts

        fetched = Path(download_artifacts(f"models:/{name}/{number}", dst_path=str(folder), tracking_uri=uri, registry_uri=uri))
    if not any(fetched.iterdir()):  # so it is where they lie in a folder of another machine
        raise MissingResourceError(f"MLflow at {uri} has no files of the version {name}:{number}: look where its artifacts lie.")
    return fetched


@contextmanager
def _asking(uri: str, what: str) -> Iterator[None]:
    try:
        _import()
        with environment({"MLFLOW_TRACKING_URI": uri}):  # models:/ is looked up there, whatever address is handed on
            yield
    except Exception as error:
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise MissingResourceError(f"MLflow at {uri} does not have {what}: check name, number and alias.") from error
        raise StoreError(
            f"MLflow at {uri} does not give {what} ({first_line(error)}): bring it up, or check MLFLOW_TRACKING_URI."
        ) from error


def _guard(uri: str, advice: str) -> Guard:
    """A guard with mlflow imported already: the import may be slow, but it needs no server and has a deadline of its own."""
    guard = Guard(f"MLflow at {redact(uri)}", advice, deadline=120.0 if uri.startswith("sqlite:") else 20.0)
    guard.attempt(_import, IMPORT_SECONDS)
    return guard


def _import() -> None:
    need("mlflow", "What MLFLOW_TRACKING_URI asks for")
    set_impatience()
    import mlflow  # noqa: F401

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it shows the traceback of what it then raises


def preload(uri: str) -> None:
    """Import what a tracker at `uri` will need, and reach for nothing."""
    _import()
    if uri.startswith("sqlite:"):
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
