"""What every objective's settings answer; imports no torch."""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import model_validator

from distillery.config import Config, refuse_idle

WEIGHT = "weight"
"""Name of the field that weighs an objective, and ending of those that weigh one of its terms."""


class ObjectiveConfig(Config):
    """Settings of a student objective; each objective's config derives from it and gives its own `name` as a literal.

    Settings under which all weights are 0 are refused here, for every objective, and so are those that only a term of weight 0 reads.

    Attributes:
        name: of the catalog row.
    """

    name: str
    read_by: ClassVar[Mapping[str, str]] = {}
    """Setting -> the weight of the only term that reads it."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, by setting."""
        return {name: float(getattr(self, name)) for name in type(self).model_fields if name == WEIGHT or name.endswith(f"_{WEIGHT}")}

    @property
    def takes_labels(self) -> bool:
        """Whether a term looks at true labels where there are some, and does with the teacher's answers where there are none."""
        return False

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        weights = self.weights
        if weights and not any(weights.values()):
            *first, last = weights
            several = f"{', '.join(first)} and {last} are both 0: one of them must be above 0"
            raise ValueError(several if first else f"{last} is 0: leave the objective out")
        for setting, weight in self.read_by.items():
            if not weights[weight]:
                refuse_idle(self, (setting,), f"where {weight} is 0")
        return self
