"""A registered version as an auditor meets it: what the registry says of it, and its files. Imports no mlflow."""

import re
from pathlib import Path

from distillery.errors import ConfigError
from distillery.extras import need
from distillery.storage.workspace import workspace
from distillery.tracking.protocol import Version, tracking_uri

_REFERENCE = re.compile(r"(?:models:/+)?([A-Za-z0-9_.-]+)(?:[:/]([0-9]+)|@([A-Za-z0-9_.-]+))")


def parse_reference(text: str) -> tuple[str, str, str] | None:
    """Name, number and alias (one of the two is "") of `name:3`, `name@champion`, `models:/name/3`; None where it is none of these."""
    found = _REFERENCE.fullmatch(text.strip())
    return (found[1], found[2] or "", found[3] or "") if found else None


def registry_uri() -> str:
    """The environment's MLflow, else the database of the workspace.

    Raises:
        ConfigError: there is neither.
    """
    database = workspace() / "mlflow.db"
    if uri := tracking_uri():
        return uri
    if not database.is_file():
        raise ConfigError(f"MLFLOW_TRACKING_URI is not set and there is no {str(database)!r}: set it, or name the bundle's folder.")
    return f"sqlite:///{database}"


def find_version(reference: str) -> Version:
    """Ask the registry for a version.

    Args:
        reference: what `parse_reference` takes.

    Raises:
        ConfigError: no reference, no registry to ask, or no mlflow to ask it with.
        MissingResourceError: the registry has no such version.
        StoreError: the registry does not answer.
    """
    named = parse_reference(reference)
    if named is None:
        raise ConfigError(f"{reference!r} names no version: give name:number, name@alias or models:/name/number.")
    need("mlflow", f"The registry's version {reference!r}")
    from distillery.tracking.mlflow import read_version

    return read_version(registry_uri(), *named)


def fetch_files(version: Version, folder: Path) -> Path:
    """Copy the version's files below a folder, as a model server would get them.

    Raises:
        StoreError: they cannot be fetched.
    """
    from distillery.tracking.mlflow import fetch_version

    return fetch_version(registry_uri(), version.name, version.number, folder)
