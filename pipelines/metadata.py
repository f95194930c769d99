"""What stands beside the components: metadata.yaml of each, and the one table of images."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from typing import Any, Literal

import yaml

from distillery.step_table import STEPS

COMPONENTS = "distillery_kfp.components"


@dataclass(frozen=True)
class Metadata:
    """One metadata.yaml.

    Attributes:
        name: of the component, its folder and its step.
        stability: alpha | beta | stable.
        image: row of images.yaml.
        size: of its tasks, by which a profile of the cluster's nodes gives them CPU, memory and accelerators; first for the plan.
        gpu: none | optional | required.
        caching: whether the platform may reuse outputs; decided here, never at submission.
        retries: how often the platform tries again.
        timeout_seconds: when it gives up.
        scratch: limit of the volume for its workspace and temporary files.
    """

    name: str
    stability: Literal["alpha", "beta", "stable"]
    image: str
    size: Literal["first", "small", "medium", "large"]
    gpu: Literal["none", "optional", "required"]
    caching: bool
    retries: int
    timeout_seconds: int
    scratch: str


def component_of(name: str) -> str:
    """The component behind one of kfp's names: of a task, an executor or a component, numbered where it is used a second time.

    Args:
        name: such as `evaluate`, `evaluate-2`, `exec-train-student` or `comp-train-student-3`.

    Returns:
        The name of its step; "" for a stranger.
    """
    bare = re.sub(r"^(comp|exec)-", "", name)
    candidates = (found.replace("-", "_") for found in (bare, re.sub(r"-\d+$", "", bare)))
    return next((found for found in candidates if found in STEPS), "")


@cache
def metadata(name: str) -> Metadata:
    """The metadata of the component `name`."""
    text = resources.files(COMPONENTS).joinpath(STEPS[name].stage, name, "metadata.yaml").read_text()
    return Metadata(**yaml.safe_load(text))


@cache
def images() -> dict[str, str]:
    """Image references by name."""
    table: dict[str, str] = yaml.safe_load(resources.files("distillery_kfp.images").joinpath("images.yaml").read_text())
    return table


def component(name: str) -> Any:
    """The component `name` itself (imports kfp)."""
    return getattr(import_module(f"{COMPONENTS}.{STEPS[name].stage}.{name}.component"), name)
