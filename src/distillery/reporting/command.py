"""The command that makes a run again: what its form said, and where and with what it was started."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from distillery.host import INPUTS, PLACES
from distillery.plain_yaml import write_yaml
from distillery.redaction import redact

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DISTILLERY_ALLOW_MODULES")
"""Variables that have no flag and belong to what a run was started with."""


def surroundings_of(store: str, workdir: str, device: str, threads: int) -> dict[str, Any]:
    """What a run was started with beside its form, for its record: flags, else what the environment says; without passwords.

    Args:
        store: its URI or folder.
        workdir: its local folder.
        device: auto, cpu, cuda or cuda:N; "" is the environment's.
        threads: CPU threads; 0 is the environment's.
    """
    number = os.environ.get("DISTILLERY_THREADS", "")
    return {
        "store": redact(store) if "://" in store else store,
        "workdir": workdir,
        "device": device or os.environ.get("DISTILLERY_DEVICE", ""),
        "threads": threads or int(number if number.isdecimal() else 0),
        "variables": {name: redact(value) for name in VARIABLES if (value := os.environ.get(name, "").strip())},
    }


def run_again(parameters: Mapping[str, Any], surroundings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The words of `distillery run`, grouped as they belong together: variables before it, the recipe, each flag with its value.

    Args:
        parameters: of the run form.
        surroundings: as `surroundings_of` gives them; empty where no runner kept them, as on a cluster.
    """
    recipe = str(parameters.get("run_recipe_uri") or parameters.get("run_recipe") or "")
    flags = [("--teacher", parameters.get("teacher_uri", ""))]
    flags += [(f"--{argument.replace('_', '-')}", parameters[name]) for name, argument in INPUTS.items() if parameters.get(name)]
    flags += [("--student-method", parameters["student_method"])] if parameters.get("student_method") else []
    flags += [("--seed", int(parameters["run_seed"]))] if parameters.get("run_seed") else []
    flags += [("--salt", parameters["run_salt"])] if parameters.get("run_salt") else []
    return [
        *_variables(surroundings),
        ("distillery", "run", _safe(recipe)),
        *((flag, _safe(str(value))) for flag, value in flags),
        *_assignments(parameters),
        *_flags(surroundings),
    ]


def resume_again(run: str, surroundings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The words of `distillery resume`, as `run_again` gives those of `run`.

    Args:
        run: its id.
        surroundings: as `surroundings_of` gives them.
    """
    return [*_variables(surroundings), ("distillery", "resume", run), *_flags(surroundings)]


def as_typed(words: Sequence[Sequence[str]], between: str = " ") -> str:
    """Words as a shell takes them; a variable that stands before the command is set for it alone.

    Args:
        words: as `run_again` gives them.
        between: what stands between two groups.
    """
    return between.join(" ".join(_assignment(word) if _is_variable(group) else shlex.quote(word) for word in group) for group in words)


def _variables(surroundings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(f"{name}={value}",) for name, value in dict(surroundings.get("variables") or {}).items() if name in VARIABLES]


def _is_variable(group: Sequence[str]) -> bool:
    return len(group) == 1 and group[0].partition("=")[0] in VARIABLES


def _assignment(word: str) -> str:
    name, _, value = word.partition("=")  # quoted whole, a shell would take it for the command's name
    return f"{name}={shlex.quote(value)}"


def _flags(surroundings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    chosen = {f"--{name}": surroundings.get(name) for name in ("store", "workdir", "device", "threads")}
    return [(flag, str(value)) for flag, value in chosen.items() if value]


def _assignments(parameters: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """`--set` for each override, and for the fields of the form that stand in the recipe."""
    chosen = {place: parameters[name] for name, place in PLACES.items() if parameters.get(name)}
    overrides = dict(parameters.get("run_overrides") or {})
    return [("--set", f"{place}={_as_yaml(value)}") for place, value in {**chosen, **overrides}.items()]


def _safe(text: str) -> str:
    """An address without its password; everything else as it is, for a name may look like one."""
    return redact(text) if "://" in text else text


def _as_yaml(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # integers cross Kubeflow's borders as floats
        value = int(value)
    return write_yaml(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
