"""A step called by its row in the table, in this process."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from distillery.step_table import STEPS
from distillery.synthesis.bundle import list_synthesizers


def run_tasks(
    step: str, plan: Mapping[str, Any], places: Mapping[str, Path], given: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Run a step as its plan says: as one task, or as several one after another, each of which writes below the artifact's own place.

    Args:
        step: its name.
        plan: every section.
        places: as of `run_step`.
        given: as of `run_step`.

    Yields:
        The step's name, its section and what it returned; of several tasks each, called `<step>/<number>`.
    """
    row = STEPS[step]
    sections = row.planned(plan)
    if row.section in plan:
        yield step, sections[0], run_step(step, sections[0], places, given)
        return
    for number, section in enumerate(sections, start=1):
        own: dict[str, Path] = {name: places[name] / f"{number:0{len(str(len(sections)))}d}" for name in row.writes}
        yield f"{step}/{number}", section, run_step(step, section, {**places, **own}, given)


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
    read: dict[str, Any] = {name: places[name] for name in row.reads if name in places and name not in row.gathers}
    read |= {f"{name}s": list_synthesizers(places[name]) for name in row.gathers if name in places}
    written = {name: places[name] for name in row.writes if name in places}
    result: dict[str, Any] = module.run(section, module.Inputs(**read, **settings), module.Outputs(**written))
    return result
