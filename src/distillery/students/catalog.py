"""The table of student objectives: plain data, so that listing them imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from distillery.config import nearest
from distillery.errors import ConfigError

Need = Literal["labels", "features"]


@dataclass(frozen=True)
class ObjectiveRow:
    """One row.

    Attributes:
        name: as recipes spell it; also the name of its file in `students/`.
        title: as the field spells it.
        paper: arXiv number and venue.
        summary: one line for `distillery objectives`.
        implementation: "module:Class"; its config class is the same name with `Config` appended.
        needs: labels: true ones, which synthetic images do not have; features: of layers within both networks. Each with the config's
            weight that lifts the need when it is 0, or "" where nothing does.
    """

    name: str
    title: str
    paper: str
    summary: str
    implementation: str
    needs: Mapping[Need, str] = field(default_factory=dict)

    def required(self, config: Mapping[str, Any]) -> tuple[Need, ...]:
        """What the objective needs under a configuration: a term of weight 0 needs nothing."""
        return tuple(need for need, weight in self.needs.items() if not weight or config.get(weight) != 0)

    def load(self) -> tuple[type[Any], type[Any]]:
        """The objective class and its config class (imports torch)."""
        module, name = self.implementation.split(":")
        loaded = import_module(module)
        return getattr(loaded, name), getattr(loaded, f"{name}Config")


OBJECTIVES: dict[str, ObjectiveRow] = {
    row.name: row
    for row in (
        ObjectiveRow(
            name="kd",
            title="KD",
            paper="arXiv:1503.02531 (2015)",
            summary="The teacher's softened probabilities, and cross-entropy on labels where hard is above 0.",
            implementation="distillery.students.kd:KD",
        ),
    )
}


def find_objective(name: str) -> ObjectiveRow:
    """The row called `name`.

    Raises:
        ConfigError: no such objective; names the nearest one.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"There is no student objective {name!r}; known: {', '.join(OBJECTIVES)}{nearest(name, list(OBJECTIVES)) or '.'}")
    return OBJECTIVES[name]
