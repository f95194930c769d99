"""A step called by its row in the table, and all steps of a run one after another, in this process."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from distillery.step_table import PIPELINES, STEPS
from distillery.steps import plan
from distillery.synthesis.bundle import list_synthesizers


@dataclass(frozen=True)
class StepResult:
    """One finished step.

    Attributes:
        section: what the plan handed to it.
        metrics: what it returned.
        seconds: what it took; next to nothing where it was done before.
    """

    section: Mapping[str, Any]
    metrics: Mapping[str, Any]
    seconds: float


def new_run() -> str:
    """A name for a run of this process, unless whoever started it has given one."""
    return os.environ.get("KFP_RUN_ID") or f"local-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def run_pipeline(
    pipeline: str, form: Mapping[str, Any], given: Mapping[str, str], place: Callable[[str], Path], skip: str = ""
) -> Iterator[tuple[str, StepResult]]:
    """Plan a run, and run its steps in their order.

    Args:
        pipeline: its name.
        form: the run form's values by name, but for those of `given`.
        given: addresses, by the form's names; a step is given those that it reads.
        place: says where an artifact is to lie.
        skip: a step that is left out; "" for none.

    Yields:
        Each task's name and what came of it; the plan is none.
    """
    row = PIPELINES[pipeline]
    sections = plan.run(pipeline, {**form, **given})
    for name in row.steps[1:]:
        if name == skip:
            continue
        began, step = time.monotonic(), STEPS[name]
        places: dict[str, Path] = {artifact: place(artifact) for artifact in (*step.reads, *step.writes) if artifact in row.artifacts}
        for task, section, metrics in run_tasks(name, sections, places, given):
            yield task, StepResult(section, metrics, time.monotonic() - began)
            began = time.monotonic()


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
