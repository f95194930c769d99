"""A field of the run form is called as whoever reads the sentence would give it, and no field of the form is forgotten."""

import inspect

import pytest

from distillery import distill
from distillery.host import INPUTS, hosted, spoken
from distillery.recipes.parameters import parameters_of
from distillery_kfp.pipelines.cli.app import run
from distillery_kfp.pipelines.cli.commands.resume import resume

NOT_INPUTS = {"run_recipe_uri", "teacher_uri"}
"""Places that are the recipe and the teacher themselves."""


def test_a_field_is_an_option_an_argument_or_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (spoken("synth_ood_uri"), spoken("run_seed"), spoken("run_recipe")) == ("--ood", "--seed", "RECIPE")
    with hosted(lambda event: None):
        assert (spoken("synth_ood_uri"), spoken("run_seed"), spoken("run_recipe")) == ("ood", "seed", "recipe")
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    assert (spoken("synth_ood_uri"), spoken("run_seed")) == ("synth_ood_uri", "run_seed")


def test_a_field_without_another_name_keeps_its_own() -> None:
    assert spoken("mlflow_experiment") == "mlflow_experiment"


def test_every_place_that_a_form_asks_for_can_be_given_and_given_anew_wherever_a_user_is() -> None:
    asked = {name for name in parameters_of("online_distillation") if name.endswith("_uri")}
    assert asked - NOT_INPUTS == set(INPUTS)
    for offered in (run, resume, distill):
        assert set(INPUTS.values()) <= set(inspect.signature(offered).parameters), offered
