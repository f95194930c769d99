"""Which observer a step has: MLflow where the environment names one, else JSON files beside the outputs.

MLflow is imported where it is asked for only: it takes seconds, and an installation may do without.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError
from distillery.extras import installed, need
from distillery.redaction import redact
from distillery.tracking.protocol import Status, Tracker, tracking_uri

log = logging.getLogger(__name__)


@contextmanager
def open_tracker(step: str, fallback: Path, key: str = "") -> Iterator[Tracker]:
    """Open the observer of one step, for the length of a with block.

    The run ends FINISHED, or FAILED on an exception, or KILLED on KeyboardInterrupt and on a SystemExit other than 0.

    Args:
        step: the step's name, which names its run.
        fallback: folder for the JSON files, written where no tracking URI is set or while the server does not answer.
        key: the step's key; a killed step that comes back with the same key goes on in its own unfinished run.

    Returns:
        A context manager that gives a `Tracker`.
    """
    tracker = _tracker(step, fallback, key)
    try:
        yield tracker
    except BaseException as error:
        tracker.close(_status(error))
        raise
    tracker.close("FINISHED")


def open_parent(name: str, fallback: Path, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
    """Create the run of the whole pipeline, found again by `KFP_RUN_ID`; the plan step calls it once. Never raises.

    Args:
        name: the run's name, such as the pipeline and the recipe.
        fallback: folder for the JSON files where no tracking URI is set or the server does not answer.
        params: the resolved recipe.
        tags: hashes and addresses.

    Returns:
        The parent's run id, empty where there is none.
    """
    if tracking_uri() and installed("mlflow"):
        from distillery.tracking.observer import MlflowParent

        run_id = MlflowParent(tracking_uri()).open(name, params, tags)
        if run_id:
            return run_id
    from distillery.tracking.null import NullTracker

    tracker = NullTracker(fallback)
    tracker.params(params)
    tracker.tags({"name": name, **tags})
    return ""


def check_observer() -> None:
    """Refuse a tracking URI where there is no MLflow, before a run is planned; a step that finds it so later warns and goes on.

    Raises:
        ConfigError: names the extra.
    """
    if tracking_uri():
        need("mlflow", f"MLFLOW_TRACKING_URI = {redact(tracking_uri())!r}")


def close_parent(status: Status) -> None:
    """End the run of the whole pipeline; the register step and the command line call it. Never raises."""
    if tracking_uri() and installed("mlflow") and os.environ.get("KFP_RUN_ID"):
        from distillery.tracking.observer import MlflowParent

        MlflowParent(tracking_uri()).close(status)


def preload() -> None:
    """Import what the observer of a step will need, in a process that others are forked from."""
    if tracking_uri() and installed("mlflow"):
        from distillery.tracking.mlflow import preload

        preload(tracking_uri())


def _tracker(step: str, fallback: Path, key: str) -> Tracker:
    if tracking_uri() and not installed("mlflow"):
        try:
            check_observer()
        except ConfigError as error:  # no server is waited for: what is not installed will not answer later either
            log.warning("%s The step goes on and its records go to %s.", error, fallback)
    elif tracking_uri():
        from distillery.tracking.observer import MlflowTracker

        return MlflowTracker(step, fallback, key, tracking_uri())
    from distillery.tracking.null import NullTracker

    return NullTracker(fallback)


def _status(error: BaseException) -> Status:
    if isinstance(error, KeyboardInterrupt):
        return "KILLED"
    if isinstance(error, SystemExit):
        return "KILLED" if error.code else "FINISHED"
    return "FAILED"
