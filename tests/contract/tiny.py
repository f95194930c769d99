"""A configuration of each method that runs in a fraction of a second, and what it is built from."""

from typing import Any

import torch

from distillery.methods.catalog import METHODS
from distillery.runtime import resolve_runtime
from distillery.synthesis.protocol import Ingredients, Synthesizer
from equivalence.plain import moments_of, tiny_classifier

TINY: dict[str, dict[str, Any]] = {
    "fast_dfkd": {
        "generator": {"name": "generator", "latent": 6, "width": 4},
        "batch": 8,
        "steps": 2,
        "warmup": 1,
        "reset_after": 1,
        "augment": {"crop_padding": 1, "flip": True},
    },
    "ls_gdfd": {
        "generator": {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"},
        "batch": 8,
        "steps_per_round": 2,
    },
}


def build(name: str, seed: int = 0, diagnose: bool = True) -> Synthesizer:
    """The method with its tiny configuration, on a teacher of three classes."""
    teacher = tiny_classifier(6, seed=1).freeze()
    cls, config = METHODS[name].load()
    ingredients = Ingredients(teacher, resolve_runtime("cpu", "float32"), seed, moments_of(teacher), diagnose=diagnose)
    made: Synthesizer = cls(config.parse(TINY[name]), ingredients)
    return made


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and lists by path."""
    if isinstance(state, dict):
        return {key: leaf for name, part in state.items() for key, leaf in flatten(part, f"{path}/{name}").items()}
    if isinstance(state, list | tuple):
        return {key: leaf for index, part in enumerate(state) for key, leaf in flatten(part, f"{path}/{index}").items()}
    return {path: state}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Paths whose leaves differ, bit for bit."""
    paths = before.keys() | after.keys()
    missing = object()
    return {path for path in paths if not _equal(before.get(path, missing), after.get(path, missing))}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
