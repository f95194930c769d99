"""The digits recipe of every method cut down to seconds."""

from typing import Any

from distillery.methods.catalog import METHODS, Method
from methods import tiny

STAGE = {"epochs": 2, "batch": 8, "objectives": [{"name": "kd"}], "steps_per_epoch": 2}


def _short(row: Method) -> dict[str, Any]:
    shared = {"synthesis.config": tiny(row.name), "student.stages": [STAGE], "evaluation.latency": False}
    if row.coupling == "online":
        return {**shared, "synthesis.rounds": 3, "synthesis.student_steps_per_turn": 2}
    drawn = {**shared, "set.size": 40, "set.max_oversampling": 2.0}
    return drawn if row.inverts else {**drawn, "synthesis.rounds": 2}


SHORT: dict[str, dict[str, Any]] = {f"{row.name}/digits": _short(row) for row in METHODS.values()}
