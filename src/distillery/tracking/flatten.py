"""Nested settings as the flat names and texts that a tracker keeps."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from distillery.tracking.protocol import PREFIX

FOREIGN = (PREFIX, "mlflow.", "kfp.")  # names that carry their owner's prefix already


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested mappings as dotted names below `distillery/`, every leaf as text (lists as JSON).

    Args:
        values: plain JSON values, nested at will.

    Returns:
        Name to text, such as `distillery/student.optimizer.lr` to `0.1`.
    """
    leaves = {_allowed(path): _text(leaf) for path, leaf in _leaves(values, "")}
    return {path if path.startswith(FOREIGN) else PREFIX + path: text for path, text in leaves.items()}


def metric_names(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics as floats, under names that MLflow allows."""
    return {_allowed(name): float(value) for name, value in values.items()}


def finite_or_text(value: float) -> float | str:
    """A finite number as it is, another as text, since JSON has no nan."""
    return value if math.isfinite(value) else str(value)


def json_bytes(value: Any) -> bytes:
    """A JSON document for a reader, whatever stands in it."""
    return (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode()


def relative_name(name: str) -> PurePosixPath:
    """A file name below a tracker's folder.

    Raises:
        ValueError: the name is absolute or climbs out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"name = {name!r} is not allowed: give a relative path without '..'.")
    return path


def _leaves(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        found += _leaves(value, f"{path}.") if isinstance(value, Mapping) and value else [(path, value)]
    return found


def _allowed(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
