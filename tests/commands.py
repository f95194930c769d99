"""The `distillery` command by a fork of one process a session, so that a call costs what it does and not Python's start and torch's.

What a command imports, prints and answers when Python starts for it alone is for `tests/pipelines/test_local.py`, the demo's test and
`tests/unit/pipelines/test_cli.py`, which start it so.
"""

import atexit
import importlib
import pkgutil
import sys
from functools import cache
from pathlib import Path

from distillery_kfp.pipelines.runner import forkserver
from distillery_kfp.pipelines.runner.forkserver import ForkServer

APP = "distillery_kfp.pipelines.cli.app"


def distillery() -> list[str]:
    """What to write before the words of a command."""
    return [*(_server().command if forkserver.AVAILABLE else [sys.executable]), "-m", APP]


@cache
def _server() -> ForkServer:
    server = ForkServer(["commands:load"], {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"})
    atexit.register(server.__exit__, None, None, None)
    return server


def load() -> None:
    """Import all that a command may need, in the server."""
    for name in ("boto3", "torch._dynamo", "distillery", "distillery_kfp.pipelines.cli", "distillery_kfp.pipelines.runner"):
        module = importlib.import_module(name)
        if name.startswith("distillery"):
            for found in pkgutil.walk_packages(module.__path__, f"{name}."):
                if found.name != APP:  # it is run, not imported
                    importlib.import_module(found.name)
    from distillery.tracking.mlflow import preload

    preload("sqlite:")
