"""Two runs side by side: the values in which their configurations differ, and their results."""

from collections.abc import Mapping
from typing import Any

from distillery.documents import HEADER
from distillery.errors import StoreError
from distillery.evaluation.report import EvaluationReport, flat_metrics
from distillery.ledger.runs import Run
from distillery.workbench.lineage import evaluation_of

_MISSING = "(not set)"


def differences(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; what only one of the two has is "(not set)" in the other.

    Beside the recipe's keys: `run.pipeline`, `run.recipe`, `run.seed`, `run.salt`, `run.teacher`, `run.data`, `run.images`,
    `run.student_start`, `run.code`, `run.device` and `run.threads`. What the recipe says about itself makes no difference.
    """
    check(first)
    check(second)
    left, right = ({**_settings(run), **dotted(run.config)} for run in (first, second))
    both = {key: (left.get(key, _MISSING), right.get(key, _MISSING)) for key in (*left, *right)}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1] and not key.startswith("about.")}


def results(run: Run) -> dict[str, float]:
    """The numbers of a run: those of its evaluation, `seconds`, and nothing else; without an evaluation only the seconds.

    Raises:
        StoreError: a record of the run is damaged.
    """
    check(run)
    metrics: dict[str, float] = {}
    if run.evaluation:
        fields = {key: value for key, value in run.evaluation.items() if key not in HEADER}
        metrics = flat_metrics(EvaluationReport.parse(fields, evaluation_of(run.id)))
    return {**metrics, **({"seconds": run.seconds} if run.seconds else {})}


def check(run: Run) -> None:
    """Refuse a run of which a record is damaged.

    Raises:
        StoreError: with the sentence about it.
    """
    if run.damage:
        raise StoreError(run.damage[0])


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings and lists of mappings as one level of dotted keys; a list of plain values is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = value
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            inner = {str(index): item for index, item in enumerate(value)}
        if isinstance(inner, Mapping) and inner:
            flat |= {f"{key}.{path}": leaf for path, leaf in dotted(inner).items()}
        else:
            flat[key] = inner
    return flat


def _settings(run: Run) -> dict[str, Any]:
    environment = run.document.get("environment", {})
    values = {
        "pipeline": run.document.get("pipeline", ""),
        "recipe": run.recipe,
        "seed": run.seed,
        "salt": run.parameters.get("run_salt", ""),
        "teacher": run.teacher_sha256,
        "data": run.parameters.get("eval_data_uri", ""),
        "images": run.parameters.get("images_uri", ""),
        "student_start": run.parameters.get("student_start_uri", ""),
        "code": run.code_version,
        "device": environment.get("device", ""),
        "threads": environment.get("threads", 0),
    }
    return {f"run.{name}": value for name, value in values.items()}
