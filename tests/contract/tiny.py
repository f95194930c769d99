"""Each method, toys included, built in its tiny configuration from what it asks for and nothing else."""

from typing import Any

import torch

from distillery.methods.catalog import METHODS
from distillery.runtime import resolve_runtime
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.protocol import Ingredients, Synthesizer
from distillery.types import Classifier
from equivalence.plain import tiny_classifier
from methods import tiny
from needed import moments_needed, others_needed


def tiny_settings(name: str, **changes: Any) -> MethodConfig:
    """The method's tiny configuration with some values replaced."""
    parsed: MethodConfig = METHODS[name].load()[1].parse(tiny(name) | changes)
    return parsed


def build(
    name: str, seed: int = 0, diagnose: bool = True, settings: MethodConfig | None = None, teacher: Classifier | None = None
) -> Synthesizer:
    """The method on a teacher of three classes, with what it needs under its settings and nothing else."""
    settings = settings or tiny_settings(name)
    teacher = teacher or tiny_classifier(6, seed=1).freeze()
    needs = METHODS[name].required(settings)
    moments, ood = moments_needed(needs, teacher, "0" * 64), others_needed(needs, teacher.spec)
    made: Synthesizer = METHODS[name].load()[0](
        settings, Ingredients(teacher, resolve_runtime("cpu", "float32"), seed, moments, ood=ood, diagnose=diagnose)
    )
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
