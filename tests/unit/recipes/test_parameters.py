from typing import Any

import pytest

from distillery.errors import ConfigError
from distillery.recipes.loader import list_recipes
from distillery.recipes.parameters import parameters_of, read_parameters
from distillery.step_table import PIPELINES


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_parameter_has_a_default_and_a_preset_is_named(pipeline: str) -> None:
    values = read_parameters(pipeline, {})
    presets = {recipe.name for recipe in list_recipes() if recipe.pipeline == pipeline}
    assert values["run_recipe"] in presets or (not presets and values["run_recipe"] == "")
    assert {name: row.default for name, row in parameters_of(pipeline).items()} == values


def test_integers_that_arrive_as_floats() -> None:
    values = read_parameters("online_distillation", {"run_seed": 7.0, "gen_rounds": 30.0})
    assert (values["run_seed"], values["gen_rounds"]) == (7, 30)
    assert isinstance(values["run_seed"], int)


def test_the_largest_seed_survives_a_float() -> None:
    largest = 2**53 - 1
    assert read_parameters("online_distillation", {"run_seed": float(largest)})["run_seed"] == largest


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run_sed": 1}, "no parameter 'run_sed'.*did you mean 'run_seed'"),
        ({"run_seed": 2**53}, "--seed = 9007199254740992 is not allowed"),
        ({"run_seed": -1}, "--seed = -1 is not allowed"),
        ({"run_seed": 1.5}, "--seed = 1.5 is not allowed"),
        ({"run_seed": float("inf")}, "--seed = inf is not allowed"),
        ({"run_seed": True}, "--seed = True is not allowed"),
        ({"run_seed": "3"}, "--seed = '3' is not allowed"),
        ({"teacher_uri": 3}, "--teacher = 3 is not allowed: give a text"),
        ({"run_overrides": "a=b"}, "--set = 'a=b' is not allowed: give a mapping"),
        ({"synth_size": 5}, "synth_size = 5 means nothing to online_distillation.*run generative_distillation or ensemble_d.* or inv"),
    ],
)
def test_bad_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_parameters("online_distillation", given)


def test_unknown_pipeline() -> None:
    with pytest.raises(ConfigError, match="no pipeline 'online'"):
        parameters_of("online")
