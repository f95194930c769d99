"""The stages of a student's plan, as the page tells them."""

from collections.abc import Mapping
from typing import Any

from distillery.reporting.page import PageData
from distillery.students.catalog import OBJECTIVES


def stage_rows(data: PageData) -> list[dict[str, Any]]:
    """One row a stage: what it minimised, what it trained, for how long; empty where the plan is not known.

    Returns:
        `objectives` with their settings, `names` of them alone, `trains`, `epochs`, the `first` and `last` of them counted from 1 over all
        stages, `batch` and `rate`.
    """
    rows, before = [], 0
    for stage in _stages(data.config):
        objectives = stage["objectives"]
        epochs = int(stage["epochs"])
        rows.append(
            {
                "objectives": [_told(objective) for objective in objectives],
                "names": " and ".join(_title(objective) for objective in objectives),
                "trains": "the whole student" if stage["trains"] == "all" else ", ".join(stage["trains"]),
                "epochs": epochs,
                "first": before + 1,
                "last": before + epochs,
                "batch": int(stage["batch"]),
                "rate": float(stage["optimizer"]["rate"]),
            }
        )
        before += epochs
    return rows


def _stages(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a recipe, or of the section that a student's provenance keeps; both hold a parsed plan, whose fields are all there."""
    student = config.get("student", {})
    student = student.get("student", student)
    stages: list[Mapping[str, Any]] = student.get("stages", [])
    return [stage for stage in stages if {"objectives", "trains", "epochs", "batch", "optimizer"} <= set(stage)]


def _title(objective: Mapping[str, Any]) -> str:
    name = str(objective["name"])
    return OBJECTIVES[name].title if name in OBJECTIVES else name


def _told(objective: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in objective.items() if key != "name" and value != "")
    return f"{_title(objective)} ({settings})" if settings else _title(objective)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
