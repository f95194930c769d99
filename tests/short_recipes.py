"""The digits recipes cut down to seconds."""

from typing import Any

STAGE = {"epochs": 2, "batch": 8, "objectives": [{"name": "kd"}], "steps_per_epoch": 2}
SHORT: dict[str, dict[str, Any]] = {
    "fast_dfkd/digits": {
        "synthesis.rounds": 3,
        "synthesis.student_steps_per_turn": 2,
        "synthesis.config.batch": 16,
        "synthesis.config.steps": 2,
        "synthesis.config.warmup": 1,
        "student.stages": [STAGE],
        "evaluation.latency": False,
    },
    "ls_gdfd/digits": {
        "synthesis.rounds": 2,
        "synthesis.config.steps_per_round": 2,
        "synthesis.config.batch": 16,
        "set.size": 40,
        "set.max_oversampling": 2.0,
        "student.stages": [STAGE],
        "evaluation.latency": False,
    },
}
