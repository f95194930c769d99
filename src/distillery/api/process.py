"""The calling process, left as it was found: environment, threads, logging; steps are its guests."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from distillery.api.arguments import check_hardware, check_watcher
from distillery.environment import environment
from distillery.host import Watcher, hosted
from distillery.redaction import redacting_logs

_IN_TURN = threading.RLock()
"""Steps read their surroundings from the environment, which a process has once: calls of two threads take turns."""
_LIBRARIES = ("MLFLOW_", "TORCH", "TRITON_")
"""How the variables begin that libraries set for good when they are loaded: MLflow's client, torch's compiler."""


@contextmanager
def visiting(watch: Watcher, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let the house's code run within the block as a guest of this process.

    Signals, log handlers and the collector of garbage are not touched; torch's random generators, modes and number of threads, and the
    environment, are put back. While another thread is within such a block, this one waits.

    Args:
        watch: told how far the work is.
        variables: of the environment, within the block; an empty value leaves what is there.

    Raises:
        ConfigError: nobody can tell `watch` anything.
    """
    check_watcher(watch)
    with _IN_TURN, _same_variables(), environment(variables or {}), redacting_logs(), hosted(watch), undrawn(), plain_modes():
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def _same_variables() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith(_LIBRARIES)}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(_LIBRARIES) and name not in before]:
            del os.environ[name]
        os.environ.update(before)


def undrawn() -> AbstractContextManager[None]:
    """Leave the caller's random numbers as they were: to build a network draws weights, whatever is loaded into it then."""
    used = torch.cuda.is_initialized()  # to ask a device for its state would start it
    return torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if used else [])


@contextmanager
def plain_modes() -> Iterator[None]:
    """Torch's modes within the block as a process begins: a student must not depend on what a notebook switched on or off.

    Gradients are recorded, autocast and inference mode are off, new tensors are float32 and on the CPU.
    """
    kind = torch.get_default_dtype()
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        nested = torch.autocast_increment_nesting() > 1
        torch.autocast_decrement_nesting()
        if nested:
            # weights that were cast are kept until the outermost block ends: a step's own autocast would compute with stale ones
            modes.enter_context(torch.autocast("cpu", enabled=False, cache_enabled=False))
            if torch.is_autocast_enabled("cuda"):
                modes.enter_context(torch.autocast("cuda", enabled=False, cache_enabled=False))
        if torch.get_default_device().type != "cpu":  # only then, because such a mode looks at every call of torch
            modes.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(kind)


def surroundings(store: str, work: str | os.PathLike[str], device: str, threads: int) -> dict[str, str]:
    """What the environment tells a step.

    Args:
        store: folder or s3:// URI.
        work: local folder for locks, logs and copies of what is fetched.
        device: auto, cpu, cuda or cuda:N; "" leaves it to the environment.
        threads: CPU threads; 0 leaves them to the environment.

    Raises:
        ConfigError: a device that is no text, or threads that are no whole number from 0 on.
    """
    check_hardware(device, threads)
    places = {"DISTILLERY_STORE": store, "DISTILLERY_WORKDIR": str(work), "DISTILLERY_FOLDER_STORE": "1"}
    return {**places, "DISTILLERY_DEVICE": device, "DISTILLERY_THREADS": str(threads or "")}
