"""A step called by its row in the table, in this process."""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from distillery.step_table import STEPS


def run_step(step: str, section: Mapping[str, Any], places: Mapping[str, Path], given: Mapping[str, str]) -> dict[str, Any]:
    """Run a step by its row in the table.

    Args:
        step: its name.
        section: of the plan.
        places: where each artifact lies that it reads, and where each is to lie that it writes; what may be left out is left out.
        given: what pipelines know beside artifacts, such as the teacher's address; a step takes what it has an input for.

    Returns:
        What the step returns.
    """
    row, module = STEPS[step], import_module(f"distillery.steps.{step}")
    known = {part.name for part in fields(module.Inputs)}
    settings = {name: value for name, value in given.items() if name in known}
    read, written = ({name: places[name] for name in names if name in places} for names in (row.reads, row.writes))
    result: dict[str, Any] = module.run(section, module.Inputs(**read, **settings), module.Outputs(**written))
    return result
