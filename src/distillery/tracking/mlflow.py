"""What is written to MLflow, a server or a sqlite file, and read from it; the only module that imports mlflow, each function for itself."""

import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from distillery.environment import environment
from distillery.errors import MissingResourceError, StoreError
from distillery.extras import need
from distillery.redaction import redact
from distillery.tracking.flatten import flatten
from distillery.tracking.guard import Guard, first_line
from distillery.tracking.patience import IMPORT_SECONDS, set_impatience
from distillery.tracking.protocol import PREFIX, SERVED_FILE, Serve, ServedModel, Version
from distillery.tracking.registry import MODEL_ID
from distillery.tracking.runs import ActiveRun, Runs

LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 6000, 5000, 36
PARAMS_PER_BATCH, TAGS_PER_BATCH, METRICS_PER_BATCH = 100, 100, 1000


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
    with reading(uri, f"the version {name}:{number}" if number else f"the version {name}@{alias}") as client:
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
def reading(uri: str, what: str) -> Iterator[Any]:
    """A client to read with, or to end runs with, for the length of a with block.

    Args:
        uri: of MLflow.
        what: is read, for the sentence where that fails.

    Raises:
        MissingResourceError: it is not there.
        StoreError: MLflow does not answer.
    """
    with _asking(uri, what):
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=uri)


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


def guard_of(uri: str, advice: str) -> Guard:
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
