"""What the rows of a catalog share: they name a class, and what it needs under its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from distillery.config import Config

NeedT = TypeVar("NeedT", bound=str)


@dataclass(frozen=True, kw_only=True)
class CatalogRow(Generic[NeedT]):
    """One row of a table of plain data, so that listing it imports no torch.

    Attributes:
        name: as recipes spell it; also the name of its file.
        title: as the field spells it.
        paper: arXiv number and venue.
        summary: one line for whoever lists the table.
        implementation: "module:Class"; its config class is the same name with `Config` appended.
        needs: what it cannot do without, each with the config's weight that lifts the need when it is 0; "" where none does.
    """

    name: str
    title: str
    paper: str
    summary: str
    implementation: str
    needs: Mapping[NeedT, str] = field(default_factory=dict)

    def required(self, config: "Config") -> tuple[NeedT, ...]:
        """What is needed under these settings: a term of weight 0 needs nothing."""
        return tuple(need for need, weight in self.needs.items() if not weight or getattr(config, weight))

    def load(self) -> tuple[type[Any], type[Any]]:
        """The class and its config class (imports torch)."""
        module, name = self.implementation.split(":")
        loaded = import_module(module)
        return getattr(loaded, name), getattr(loaded, f"{name}Config")
