"""What names a step's work: equal work has an equal key, whatever comments its code has and wherever it ran.

Everything that enters a key stands in the provenance of what the step wrote, so that its checkpoints can be found again.
"""

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import torch

from distillery.config import canonical_json
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.step_table import STEPS, keepers
from distillery.step_version import step_version

STATE_FORMAT = 4
"""Raise it when what a loop saves or how it draws random numbers changes: checkpoints of the old format are then never met."""

_FIRST_STATE_FORMAT = 1


def key_of(step: str, made: Provenance) -> str:
    """The key of a step's work.

    Args:
        step: name of the step's module.
        made: provenance of what it writes, or wrote: the parsed section with the resolved hardware, the inputs, the version of the step
            and of the packages that it runs on. That of files from before there were step versions gives the key of those days.
    """
    return keys_of(step, made)[0]


def keys_of(step: str, made: Provenance) -> tuple[str, ...]:
    """The keys that the work may have from which a file comes: no file says the format of states, so one for each that there was.

    Args:
        step: name of the step's module.
        made: provenance of the file.

    Returns:
        One or more, the newest format's first.
    """
    section = {name: value for name, value in made.config.items() if name != "resolved"}
    fields = {"step": step, "section": section, "hardware": made.config.get("resolved", {}), "inputs": made.inputs}
    if not made.step_version:
        return (_digest({**fields, "code": made.code_version, "state": _FIRST_STATE_FORMAT}),)
    section.pop("code_version", None)
    fields |= {"step_version": made.step_version, "packages": made.packages}
    return tuple(_digest({**fields, "state": state}) for state in range(STATE_FORMAT, 0, -1))


def is_planned(made: Provenance, section: Mapping[str, Any]) -> bool:
    """Whether a file was made with the settings of a planned section, by whatever code: that the key has judged.

    Args:
        made: provenance of the file.
        section: of a run's plan, as JSON.
    """
    settings, planned = dict(made.config), dict(section)
    for fields in (settings, planned):
        fields.pop("resolved", None)
        fields.pop("code_version", None)
    return settings == planned


def step_versions() -> dict[str, str]:
    """The version of each step that keeps its result, and under `torch` the version that all of them run on."""
    return {**{step: step_version(step) for step in keepers()}, **package_versions(())}


def take_versions() -> None:
    """Take all versions of the code that this process has imported: its forks say these, whatever becomes of the sources meanwhile."""
    code_version()
    for step in STEPS:
        step_version(step)


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of torch and of further packages, "" where one is not installed.

    Args:
        names: of distributions that networks are built from.
    """
    found = {"torch": str(torch.__version__)}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _digest(fields: dict[str, object]) -> str:
    return sha256_bytes(canonical_json(fields).encode())
