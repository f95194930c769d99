"""What a finished run says: the evaluation as a table, and where everything is."""

import os
from pathlib import Path

from rich.console import Console

from distillery.evaluation.report import load_report
from distillery.evaluation.table import table
from distillery.redaction import redact
from distillery_kfp.pipelines.runner.display import duration
from distillery_kfp.pipelines.runner.local import RunResult


def show_result(console: Console, result: RunResult) -> None:
    """Print the evaluation, then one line a thing that can be picked up."""
    if "report" in result.made:
        console.print(table(load_report(result.report)))
    uri = redact(result.tracking_uri)
    mlflow = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else uri
    places = {
        **_made(result),
        result.dataset["kind"]: _short(result.dataset["uri"]),
        "log": _short(result.log),
        "mlflow": mlflow,
        "again": result.command,
        "took": duration(result.seconds),
    }
    for name, place in places.items():
        if place:
            console.print(f"{name:<9}{place}", highlight=False, markup=False, soft_wrap=True)


def _made(result: RunResult) -> dict[str, str]:
    """What the run was for, and what is said of it."""
    if "class_statistics" in result.made:
        return {"moments": _short(result.uri)}
    return {"student": _short(result.uri), "report": _short(result.page), "numbers": _short(result.report)}


def _short(path: Path | str) -> str:
    """The path as seen from the current folder, where that is shorter; a URI as it is."""
    if "://" in str(path):
        return str(path)
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
