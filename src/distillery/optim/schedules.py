"""Learning-rate schedules as closed formulas of the epoch or step: no scheduler object, so there is no scheduler state to save."""

import math
from typing import Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from distillery.config import Config, refuse_idle

_READS = {"constant": (), "cosine": ("minimum", "length"), "step": ("milestones", "factor")}


class ScheduleProgress(NamedTuple):
    """How far a stage is, in the unit of its schedule.

    Attributes:
        done: epochs or steps, counted from 0.
        total: how many the stage has.
    """

    done: int
    total: int


class ScheduleConfig(Config):
    """How the learning rate falls.

    Attributes:
        name: constant; cosine from the rate to `minimum`; or step, times `factor` at each milestone.
        by: what is counted: epoch, the rate of a whole epoch being one; or step, each optimizer step having its own.
        minimum: rate at the end of the cosine.
        length: epochs or steps of the cosine (the papers' T_max); 0 means those of the stage. Later ones stay at `minimum`.
        milestones: first epoch or step (from 0) of each lower rate.
        factor: what each milestone multiplies the rate with.
    """

    name: Literal["constant", "cosine", "step"] = "cosine"
    by: Literal["epoch", "step"] = "epoch"
    minimum: float = Field(default=0.0, ge=0)
    length: int = Field(default=0, ge=0)
    milestones: tuple[int, ...] = ()
    factor: float = Field(default=0.1, gt=0, le=1)

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)) or (milestones and milestones[0] < 1):
            raise ValueError("milestones must be ascending epochs or steps from 1 on")
        return milestones

    @model_validator(mode="after")
    def _read(self) -> Self:
        idle = [name for kind, names in _READS.items() if kind != self.name for name in names]
        refuse_idle(self, [*idle, *(("by",) if self.name == "constant" else ())], f"with {self.name}")
        if self.name == "step" and not self.milestones:
            raise ValueError("step needs milestones, such as [100, 150]; the rate that never falls is constant")
        return self


def rate_at(schedule: ScheduleConfig, base: float, progress: ScheduleProgress) -> float:
    """The learning rate of one epoch or step.

    Cosine: minimum + (base - minimum) (1 + cos(pi done / length)) / 2.

    Args:
        schedule: its shape.
        base: the rate at the start.
        progress: in the unit of `schedule.by`; its total is the length of the cosine where the schedule names none.

    Returns:
        The rate, never below `minimum` for a cosine.
    """
    if schedule.name == "constant":
        return base
    if schedule.name == "step":
        passed = sum(milestone <= progress.done for milestone in schedule.milestones)
        return float(base * schedule.factor**passed)
    length = schedule.length or progress.total
    # `done` is what is over, so the last epoch still has a rate above `minimum`, as in the papers' own runs
    share = min(progress.done / max(length, 1), 1.0)
    return schedule.minimum + (base - schedule.minimum) * 0.5 * (1 + math.cos(math.pi * share))
