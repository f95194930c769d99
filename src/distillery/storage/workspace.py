"""Where this machine keeps what needs a real file system."""

import os
from pathlib import Path


def workspace() -> Path:
    """The local workspace: DISTILLERY_WORKDIR, or `.distillery` in the current folder."""
    return Path(os.environ.get("DISTILLERY_WORKDIR") or ".distillery").absolute()
