"""Plans of a student that are chosen by name: which objectives, in which stages; how long, and how, the recipe says."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.config import nearest
from distillery.errors import ConfigError
from distillery.grammar import counted
from distillery.plain_yaml import read_yaml
from distillery.recipes.loader import apply_overrides, load_document, merge
from distillery.students.catalog import find_objective

PLANS = Path(__file__).parent / "_student_plans"
_EPOCHS = 200  # of a stage that says nothing


@dataclass(frozen=True)
class StudentPlan:
    """One file of `recipes/_student_plans`.

    Attributes:
        name: of the file.
        title: as the field spells it.
        papers: arXiv numbers or venues.
        summary: one line.
        stages: each with `objectives`, its `share` of the recipe's epochs (1 where it names none), and what else it sets of a stage.
    """

    name: str
    title: str
    papers: str
    summary: str
    stages: tuple[Mapping[str, Any], ...]


def plan_names() -> list[str]:
    """Names of the plans, sorted; nothing is imported for it."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def find_plan(name: str) -> StudentPlan:
    """The plan called `name`.

    Raises:
        ConfigError: no such plan; names the nearest one.
    """
    if name not in plan_names():
        raise ConfigError(f"There is no student method {name!r}; known: {', '.join(plan_names())}{nearest(name, plan_names()) or '.'}")
    document = read_yaml((PLANS / f"{name}.yaml").read_bytes())
    return StudentPlan(name, document["title"], document["papers"], document["summary"], tuple(document["stages"]))


def plans_without_labels() -> list[str]:
    """Names of the plans that synthetic images are enough for."""
    plans = {name: [one["name"] for stage in find_plan(name).stages for one in stage["objectives"]] for name in plan_names()}
    return [name for name, objectives in plans.items() if not any("labels" in find_objective(one).needs for one in objectives)]


def changed_document(source: str, method: str, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's raw mapping with another plan of its student, and then with single values replaced.

    Args:
        source: as `load_document` takes it.
        method: name of the plan; "" is the recipe's own.
        changes: as `apply_overrides` takes them, one after the other.

    Raises:
        ConfigError: an unknown recipe or plan, or changes that do not fit.
        MissingResourceError: no such file.
    """
    document = load_document(source)
    document = apply_plan(document, method) if method else document
    for overrides in changes:
        document = apply_overrides(document, overrides)
    return document


def apply_plan(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A recipe with another plan of its student.

    Every stage is the recipe's last one, with the plan's objectives for its share of the recipe's epochs: the whole is as long as before,
    and a schedule's length and milestones shrink with their stage. An objective that the recipe has too keeps the recipe's settings.

    Args:
        document: a recipe's raw mapping, its bases merged in, overrides not yet; it stays as it is.
        name: of the plan.

    Raises:
        ConfigError: no such plan, or fewer epochs than stages.
    """
    plan, result = find_plan(name), copy.deepcopy(dict(document))
    student = result.setdefault("student", {})
    old = student.get("stages") or [{}]
    total = sum(int(stage.get("epochs", _EPOCHS)) for stage in old)
    if total < len(plan.stages):
        raise ConfigError(
            f"The student method {name} has {counted(len(plan.stages), 'stage')}, but the recipe trains for {counted(total, 'epoch')}: "
            "give it more."
        )
    known = {objective["name"]: objective for stage in old for objective in stage.get("objectives", ())}
    stages, left = [], total
    for number, planned in enumerate(plan.stages):
        share = float(planned.get("share", 1.0))
        rest = len(plan.stages) - 1 - number
        epochs = min(max(round(share * total), 1), left - rest) if rest else left
        left -= epochs
        stages.append(_stage(old[-1], planned, known, epochs, epochs / int(old[-1].get("epochs", _EPOCHS))))
    student["stages"] = stages
    return result


def _stage(old: Mapping[str, Any], planned: Mapping[str, Any], known: Mapping[str, Any], epochs: int, scale: float) -> dict[str, Any]:
    stage = {key: copy.deepcopy(value) for key, value in old.items() if key not in ("objective", "objectives", "trains")}
    stage["epochs"] = epochs
    if schedule := stage.get("schedule"):
        if schedule.get("length"):
            schedule["length"] = max(round(schedule["length"] * scale), 1)
        if schedule.get("milestones"):
            schedule["milestones"] = sorted({max(round(milestone * scale), 1) for milestone in schedule["milestones"]})
    merge(stage, {key: value for key, value in planned.items() if key not in ("share", "objectives")})
    stage["objectives"] = [{**known.get(objective["name"], {}), **objective} for objective in planned["objectives"]]
    return stage
