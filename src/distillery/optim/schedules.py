"""Learning-rate schedules as closed formulas of the epoch: no scheduler object, so there is no scheduler state to save."""

import math
from typing import Literal

from pydantic import Field, field_validator

from distillery.config import Config


class ScheduleConfig(Config):
    """How the learning rate falls, epoch by epoch.

    Attributes:
        name: constant; cosine from the rate to `minimum`; or step, times `factor` at each milestone.
        minimum: rate at the end of the cosine.
        length: epochs of the cosine (the papers' T_max); 0 means the epochs of the stage. Later epochs stay at `minimum`.
        milestones: first epoch (from 0) of each lower rate.
        factor: what each milestone multiplies the rate with.
    """

    name: Literal["constant", "cosine", "step"] = "cosine"
    minimum: float = Field(default=0.0, ge=0)
    length: int = Field(default=0, ge=0)
    milestones: tuple[int, ...] = ()
    factor: float = Field(default=0.1, gt=0, le=1)

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)) or (milestones and milestones[0] < 1):
            raise ValueError("milestones must be ascending epochs from 1 on")
        return milestones


def rate_at(schedule: ScheduleConfig, base: float, epoch: int, epochs: int) -> float:
    """The learning rate of one epoch.

    Cosine: minimum + (base - minimum) (1 + cos(pi epoch / length)) / 2.

    Args:
        schedule: its shape.
        base: the rate of epoch 0.
        epoch: counted from 0 within the stage.
        epochs: how many the stage has; the length of the cosine where the schedule names none.

    Returns:
        The rate, never below `minimum` for a cosine.
    """
    if schedule.name == "constant":
        return base
    if schedule.name == "step":
        passed = sum(milestone <= epoch for milestone in schedule.milestones)
        return float(base * schedule.factor**passed)
    length = schedule.length or epochs
    progress = min(epoch / max(length, 1), 1.0)
    return schedule.minimum + (base - schedule.minimum) * 0.5 * (1 + math.cos(math.pi * progress))
