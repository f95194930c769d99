"""A value that the chosen method never reads is refused by name."""

from typing import Any

import pytest

from distillery.errors import ConfigError
from distillery.methods.catalog import find_method
from distillery.recipes.effects import TABLE, Kind, check_effects, drop_idle, kind_of
from distillery.recipes.loader import apply_overrides, load_document, load_recipe
from distillery.recipes.schema import DistillationRecipe
from toy_methods import registered

METHOD_OF: dict[Kind, str] = {"online": "fast_dfkd", "generator": "ls_gdfd", "inversion": "toy_inversion"}


@pytest.mark.parametrize(
    ("recipe", "path", "given", "said"),
    [
        (
            "ls_gdfd/digits",
            "synthesis.closing_rounds",
            3,
            "synthesis.closing_rounds = 3 has no effect under LS-GDFD, whose student trains by itself on the finished set: leave it out, "
            "and set student.stages.*.epochs.",
        ),
        ("ls_gdfd/digits", "synthesis.feed", "fresh", "synthesis.feed = 'fresh' has no effect under LS-GDFD, .*: leave it out[.]$"),
        ("ls_gdfd/digits", "synthesis.student_steps_per_turn", 5, "synthesis.student_steps_per_turn = 5 has no effect under LS-GDFD"),
        (
            "fast_dfkd/digits",
            "set.size",
            100,
            "set.size = 100 has no effect under FastDFKD, whose set is what its turns have made: leave it out, and set synthesis.rounds.",
        ),
        ("fast_dfkd/digits", "set.labels", "missing", "set.labels = 'missing' has no effect under FastDFKD, whose turns ask for classes"),
        ("fast_dfkd/digits", "set.shard_images", 9, "set.shard_images = 9 has no effect under FastDFKD"),
        ("fast_dfkd/digits", "set.batch", 9, "set.batch = 9 has no effect under FastDFKD, .*: leave it out, and set synthesis.config[.]$"),
        ("fast_dfkd/digits", "set.max_oversampling", 2, "set.max_oversampling = 2 has no effect under FastDFKD"),
    ],
)
def test_what_has_no_effect_is_refused_in_a_sentence(recipe: str, path: str, given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe, {path: given})


def test_a_method_whose_turns_are_the_set_has_no_rounds_to_divide() -> None:
    with registered(), pytest.raises(ConfigError, match="turns_per_round = 2 has no effect under Toy Inversion, whose turns fill the set"):
        check_effects({"synthesis": {"turns_per_round": 2}}, find_method("toy_inversion"))


def test_a_method_without_classes_is_asked_for_none() -> None:
    said = "set.labels = 'missing' has no effect under Toy Blind, whose images are of no class that is asked for: leave it out[.]$"
    with registered(), pytest.raises(ConfigError, match=said):
        check_effects({"set": {"labels": "missing"}}, find_method("toy_blind"))


def test_rounds_are_of_no_use_to_a_method_whose_turns_fill_the_set_and_missed_by_others() -> None:
    student = {"architecture": {"name": "resnet8"}}
    with registered():
        assert DistillationRecipe.resolve({"synthesis": {"method": "toy_inversion"}, "student": student}).turns == 40
        with pytest.raises(ConfigError, match="synthesis.rounds = 3 has no effect under Toy Inversion, .*: leave it out, and set set.size"):
            DistillationRecipe.resolve({"synthesis": {"method": "toy_inversion", "rounds": 3}, "student": student})
    with pytest.raises(ConfigError, match="^synthesis.rounds is missing: LS-GDFD learns in rounds, so give 1 or more[.]$"):
        DistillationRecipe.resolve({"synthesis": {"method": "ls_gdfd"}, "student": student})


@pytest.mark.parametrize("value", TABLE, ids=lambda value: value.path)
def test_a_value_is_refused_of_the_kinds_that_do_not_read_it_and_of_no_other(value: Any) -> None:
    section, _, name = value.path.partition(".")
    with registered():
        for kind, method in METHOD_OF.items():
            row, document = find_method(method), {section: {name: 1}}
            assert kind_of(row) == kind
            if kind in value.serves:
                check_effects(document, row)
                continue
            with pytest.raises(ConfigError, match=f"^{value.path} = 1 has no effect"):
                check_effects(document, row)
            drop_idle(document, row)
            assert document == {section: {}}


def test_values_are_the_schema_s() -> None:
    for value in TABLE:
        section, _, name = value.path.partition(".")
        assert name in DistillationRecipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_a_base_of_another_kind_is_taken_without_what_the_method_never_reads() -> None:
    document = apply_overrides(load_document("fast_dfkd/digits"), {"synthesis.method": "ls_gdfd", "set.size": 500})
    recipe = DistillationRecipe.resolve(document)
    assert (recipe.method.name, recipe.set.size, recipe.set.holdout) == ("ls_gdfd", 500, 0.05)
    with pytest.raises(ConfigError, match="synthesis.feed = 'pool' has no effect under LS-GDFD"):
        load_recipe("fast_dfkd/digits", {"synthesis.method": "ls_gdfd", "synthesis.feed": "pool"})


@pytest.mark.parametrize("recipe", ["fast_dfkd/digits", "ls_gdfd/digits"])
def test_a_record_says_what_counted_and_can_be_given_again(recipe: str) -> None:
    resolved = load_recipe(recipe)
    record = resolved.to_json()
    assert ("feed" in record["synthesis"]) != ("size" in record["set"])
    assert DistillationRecipe.resolve(record) == resolved
