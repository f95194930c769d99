"""The calling process, left as it was found: environment, threads, logging; steps are its guests."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from distillery.environment import environment
from distillery.errors import ConfigError
from distillery.host import Watcher, hosted
from distillery.redaction import redacting_logs

_IN_TURN = threading.RLock()
"""Steps read their surroundings from the environment, which a process has once: calls of two threads take turns."""

Place = str | os.PathLike[str]
"""A path, or a URI as text."""


@contextmanager
def visiting(watch: Watcher, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let the house's code run within the block as a guest of this process.

    Signals, log handlers and the collector of garbage are not touched; torch's random generators and number of threads, and the
    environment, are put back. While another thread is within such a block, this one waits.

    Args:
        watch: told how far the work is.
        variables: of the environment, within the block; an empty value leaves what is there.
    """
    with _IN_TURN, _same_variables(), environment(variables or {}), redacting_logs(), hosted(watch), undrawn():
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def _same_variables() -> Iterator[None]:
    """Put back what MLflow's client is told by the environment, which who loads it sets for good."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("MLFLOW_") and name not in before]:
            del os.environ[name]
        os.environ.update(before)


def undrawn() -> AbstractContextManager[None]:
    """Leave the caller's random numbers as they were: to build a network draws weights, whatever is loaded into it then."""
    used = torch.cuda.is_initialized()  # to ask a device for its state would start it
    return torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if used else [])


def surroundings(store: str, work: Path, device: str, threads: int) -> dict[str, str]:
    """What the environment tells a step.

    Args:
        store: folder or s3:// URI.
        work: local folder for locks, logs and copies of what is fetched.
        device: auto, cpu, cuda or cuda:N; "" leaves it to the environment.
        threads: CPU threads; 0 leaves them to the environment.

    Raises:
        ConfigError: fewer than 0 threads.
    """
    if threads < 0:
        raise ConfigError(f"threads = {threads} is not allowed: give 0 (torch's choice) or more.")
    places = {"DISTILLERY_STORE": store, "DISTILLERY_WORKDIR": str(work), "DISTILLERY_FOLDER_STORE": "1"}
    return {**places, "DISTILLERY_DEVICE": device, "DISTILLERY_THREADS": str(threads or "")}


def located(place: Place, what: str) -> str:
    """A place as steps take it: a URI as it is, a path from the root on, so that a later `chdir` changes nothing.

    Args:
        place: as the caller gave it.
        what: the argument's name, for messages.

    Raises:
        ConfigError: it is neither a path nor a text.
    """
    if not isinstance(place, str | os.PathLike):
        raise ConfigError(f"{what} is a {type(place).__name__}, where a path or a URI is expected: write it to a folder first.")
    text = os.fspath(place)
    return text if "://" in text or not text else str(Path(text).expanduser().absolute())
