"""Plans of a student by name, over every recipe."""

import pytest

from distillery.errors import ConfigError
from distillery.recipes.loader import load_document, recipe_names
from distillery.recipes.schema import read_recipe
from distillery.recipes.student_plans import apply_plan, find_plan, plan_names

TWO_STAGES = {"student": {"stages": [{"epochs": 10}, {"objectives": [{"name": "kd", "temperature": 4.0}], "epochs": 30, "batch": 8}]}}


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if not name.startswith("statistics/")])
@pytest.mark.parametrize("plan", plan_names())
def test_every_plan_fits_every_recipe_and_is_as_long(plan: str, recipe: str) -> None:
    document = load_document(recipe)
    before, after = read_recipe(document), read_recipe(apply_plan(document, plan))
    assert after.student.epochs == before.student.epochs
    assert after.student.architecture == before.student.architecture
    assert [[one["name"] for one in stage.objectives] for stage in after.student.stages] == [
        [one["name"] for one in stage["objectives"]] for stage in find_plan(plan).stages
    ]


def test_the_plan_that_a_recipe_has_changes_nothing() -> None:
    document = load_document("fast_dfkd/digits")
    assert read_recipe(apply_plan(document, "kd")) == read_recipe(document)


def test_a_stage_is_the_recipes_last_for_its_share() -> None:
    document = {**TWO_STAGES, "set": {"size": 4}}
    changed = apply_plan(document, "fsp-kd")
    first, second = changed["student"]["stages"]
    assert first == {"epochs": 10, "batch": 8, "objectives": [{"name": "fsp", "reduction": "mean"}], "clip": 5.0}
    assert second == {"epochs": 30, "batch": 8, "objectives": [{"name": "kd", "temperature": 4.0}]}
    assert changed["set"] == {"size": 4}
    assert TWO_STAGES["student"]["stages"][1]["objectives"][0] == {"name": "kd", "temperature": 4.0}


def test_schedules_shrink_with_their_stage() -> None:
    schedules = [{"name": "cosine", "length": 20}, {"name": "step", "milestones": [10, 30]}, {"name": "cosine"}]
    found = []
    for schedule in schedules:
        document = {"student": {"stages": [{"epochs": 40, "schedule": schedule}]}}
        found.append([stage["schedule"] for stage in apply_plan(document, "fsp-kd")["student"]["stages"]])
    assert [one.get("length") for one in found[0]] == [5, 15]
    assert [one.get("milestones") for one in found[1]] == [[2, 8], [8, 22]]
    assert found[2] == [{"name": "cosine"}] * 2


def test_every_stage_has_an_epoch() -> None:
    stages = apply_plan({"student": {"stages": [{"epochs": 2}]}}, "fitnets")["student"]["stages"]
    assert [stage["epochs"] for stage in stages] == [1, 1]
    with pytest.raises(ConfigError, match="student method fitnets has 2 stages, but the recipe trains for 1 epoch: give it more"):
        apply_plan({"student": {"stages": [{"epochs": 1}]}}, "fitnets")


@pytest.mark.parametrize("name", plan_names())
def test_a_plan_says_what_it_is(name: str) -> None:
    plan = find_plan(name)
    assert plan.title
    assert plan.papers
    assert plan.summary.endswith(".")
    assert sum(float(stage.get("share", 1.0)) for stage in plan.stages) == pytest.approx(1)


def test_an_unknown_plan_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no student method 'fsp-kt'; known: attention, .*did you mean 'fsp-kd'"):
        find_plan("fsp-kt")
