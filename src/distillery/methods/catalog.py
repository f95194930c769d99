"""The table of data-free methods: plain data, so that listing them, `--help` and compiling a pipeline import no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from distillery.config import nearest
from distillery.errors import ConfigError

Need = Literal["moments"]


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: as recipes spell it; also the file name in `methods/`, `recipes/`, `docs/methods/` and `tests/equivalence/`.
        title: as the field spells it.
        paper: arXiv number and venue.
        target: what the method optimises: a generator's weights or the images themselves.
        coupling: offline methods never look at the student; online ones play against it.
        feed: what the student sees by default: the pool of all images so far, this round's images, or fresh ones each step.
        needs: what `Ingredients` must hold, each with the config's weight that lifts the need when it is 0.
        summary: one line for `distillery methods`.
        implementation: "module:Class" of the synthesizer; its config class is the same name with `Config` appended.
    """

    name: str
    title: str
    paper: str
    target: Literal["generator", "images"]
    coupling: Literal["offline", "online"]
    feed: Literal["pool", "round", "fresh"]
    summary: str
    implementation: str
    needs: Mapping[Need, str] = field(default_factory=dict)

    def required(self, config: Mapping[str, Any]) -> tuple[Need, ...]:
        """What the method needs under a configuration: a term of weight 0 needs nothing."""
        return tuple(need for need, weight in self.needs.items() if config.get(weight) != 0)

    def load(self) -> tuple[type[Any], type[Any]]:
        """The synthesizer class and its config class (imports torch)."""
        module, name = self.implementation.split(":")
        loaded = import_module(module)
        return getattr(loaded, name), getattr(loaded, f"{name}Config")


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="fast_dfkd",
            title="FastDFKD",
            paper="arXiv:2112.07327 (AAAI 2022)",
            target="generator",
            coupling="online",
            feed="pool",
            needs={"moments": "moments_weight"},
            summary="A meta-generator that reaches new images in k steps, played against the student.",
            implementation="distillery.methods.fast_dfkd:FastDFKD",
        ),
        Method(
            name="ls_gdfd",
            title="LS-GDFD",
            paper="arXiv:2012.05578 (2020)",
            target="generator",
            coupling="offline",
            feed="pool",
            needs={"moments": "moments_weight"},
            summary="A label-conditional generator trained on inceptionism and moment matching before any student exists.",
            implementation="distillery.methods.ls_gdfd:LSGDFD",
        ),
    )
}


def methods_without(need: Need) -> str:
    """Which methods do without `need`, and how, as the end of a sentence."""
    ways = [f"{row.name} with {row.needs[need]} = 0" if need in row.needs else row.name for row in METHODS.values()]
    return ", ".join(ways)


def find_method(name: str) -> Method:
    """The row called `name`.

    Raises:
        ConfigError: no such method; names the nearest one.
    """
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}; known: {', '.join(METHODS)}{nearest(name, list(METHODS)) or '.'}")
    return METHODS[name]
