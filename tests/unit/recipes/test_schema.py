from typing import Any

import pytest

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.provenance import code_version
from distillery.recipes.loader import apply_overrides, load_document, load_recipe, pipeline_of
from distillery.recipes.sections import SECTIONS, Section
from distillery.recipes.workload import Workload, workload_of

COMMON = {"seed": 3.0, "code_version": code_version(), "teacher_sha256": "t"}


def test_feed_is_the_catalogs_unless_the_recipe_says_other() -> None:
    assert load_recipe("fast_dfkd/digits", {"synthesis.feed": ""}).synthesis.feed == "pool"
    assert load_recipe("fast_dfkd/digits", {"synthesis.feed": "round"}).synthesis.feed == "round"


def test_method_settings_are_resolved_to_their_defaults() -> None:
    config = load_recipe("fast_dfkd/digits", {"synthesis.config": {"steps": 3}}).synthesis.config
    assert (config["steps"], config["reptile_scale"]) == (3, 67.0)


def test_defaults_spelled_out_are_the_same_recipe() -> None:
    assert load_recipe("fast_dfkd/digits", {"synthesis.config.reptile_scale": 67}).digest() == load_recipe("fast_dfkd/digits").digest()


@pytest.mark.parametrize(
    ("name", "overrides", "pipeline"),
    [
        ("fast_dfkd/digits", {}, "online_distillation"),
        ("ls_gdfd/digits", {}, "generative_distillation"),
        ("ls_gdfd/digits", {"synthesis.generators": 10}, "ensemble_distillation"),
        ("ls_gdfd/digits-ensemble", {}, "ensemble_distillation"),
        ("ls_gdfd/digits-ensemble", {"synthesis.generators": 1, "synthesis.shard_memory_gib": 0}, "generative_distillation"),
    ],
)
def test_pipeline_follows_the_coupling_and_the_generators(name: str, overrides: dict[str, Any], pipeline: str) -> None:
    assert load_recipe(name, overrides).pipeline == pipeline
    assert pipeline_of(apply_overrides(load_document(name), overrides)) == pipeline


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("ls_gdfd/digits", {"synthesis.generators": 0}, "synthesis.generators = 0"),
        ("ls_gdfd/digits", {"synthesis.generators": "all"}, "synthesis.generators = 'all'"),
        (
            "ls_gdfd/digits",
            {"synthesis.shard_memory_gib": 2},
            "shard_memory_gib = 2 has no effect on one generator, which is trained whole",
        ),
        ("fast_dfkd/digits", {"synthesis.generators": 3}, "synthesis.generators = 3 has no effect under FastDFKD"),
        ("fast_dfkd/digits", {"synthesis.shard_memory_gib": 3}, "synthesis.shard_memory_gib = 3 has no effect under FastDFKD"),
    ],
)
def test_generators_that_cannot_be_are_refused(name: str, overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(name, overrides)


def test_a_generator_needs_a_class_of_its_own() -> None:
    assert load_recipe("ls_gdfd/digits").generators(10) == 1
    assert load_recipe("ls_gdfd/digits-ensemble").generators(10) == 10
    recipe = load_recipe("ls_gdfd/digits", {"synthesis.generators": 11})
    with pytest.raises(
        ConfigError, match="generators = 11 is not allowed: each generator needs a class of its own, and the teacher has 10;"
    ):
        recipe.generators(10)


@pytest.mark.parametrize("cls", SECTIONS.values())
def test_a_section_survives_json_and_floats(cls: type[Section]) -> None:
    recipe = load_recipe("fast_dfkd/digits")
    parts: dict[str, Any] = {
        "recipe": "fast_dfkd/digits",
        "method": "fast_dfkd",
        "method_config": recipe.synthesis.config,
        "rounds": 3,
        "student_steps_per_turn": 2,
        "feed": "pool",
        "holdout": 0.0,
        "sha256": "s",
        "is_set": False,
        **{name: getattr(recipe, name) for name in ("student", "set", "evaluation", "registration")},
    }
    section = cls.parse({**COMMON, **{name: value for name, value in parts.items() if name in cls.model_fields}})
    crossed = _as_kubeflow_hands_it_over(section.to_json())
    assert cls.parse(crossed).digest() == section.digest()
    assert section.seed == 3


def _as_kubeflow_hands_it_over(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_kubeflow_hands_it_over(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_kubeflow_hands_it_over(item) for item in value]
    assert value is not None
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_seeds_end_below_2_to_the_53() -> None:
    Section.parse({**COMMON, "seed": 2**53 - 1})
    with pytest.raises(ConfigError, match="seed"):
        Section.parse({**COMMON, "seed": 2**53})


def test_sections_hold_neither_run_nor_place_nor_time() -> None:
    forbidden = {"run", "run_id", "path", "uri", "time", "host", "image", "teacher_uri", "device", "threads", "workdir", "store"}
    for cls in SECTIONS.values():
        assert issubclass(cls, Section)
        assert not forbidden & _field_names(cls)


def _field_names(cls: type[Config]) -> set[str]:
    nested = [field.annotation for field in cls.model_fields.values()]
    below = [_field_names(kind) for kind in nested if isinstance(kind, type) and issubclass(kind, Config)]
    return set(cls.model_fields).union(*below)


def test_cost_online_leaves_out_the_warm_up() -> None:
    overrides = {"synthesis.rounds": 12, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    assert workload_of(load_recipe("fast_dfkd/digits", overrides)) == Workload(images=120, student_steps=56)


def test_warm_up_and_cost_count_turns() -> None:
    overrides = {"synthesis.rounds": 3, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    overrides |= {"synthesis.turns_per_round": 4, "synthesis.closing_rounds": 2, "student.stages.0.steps_per_epoch": 0}
    recipe = load_recipe("fast_dfkd/digits", overrides)
    assert workload_of(recipe) == Workload(images=120, student_steps=7 * (8 + 8))
    assert recipe.student.stages[0].steps_per_epoch == 28
    with pytest.raises(ConfigError, match="FastDFKD warms up for 12 turns without training the student, so give more rounds"):
        load_recipe("fast_dfkd/digits", {**overrides, "synthesis.config.warmup": 12})


def test_the_old_name_of_the_students_steps_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match="student_steps_per_round = 20 is called student_steps_per_turn now, .*: rename the key"):
        load_recipe("fast_dfkd/digits", {"synthesis.student_steps_per_round": 20})


def test_a_sample_bounds_what_the_set_keeps() -> None:
    overrides = {"synthesis.rounds": 12, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    fed = {"synthesis.feed": "round", "synthesis.record": 30, "set.holdout": 0.0}
    work = workload_of(load_recipe("fast_dfkd/digits", {**overrides, **fed}))
    assert (work.images, work.kept) == (80, 30)
    assert workload_of(load_recipe("fast_dfkd/digits", {**overrides, **fed, "synthesis.record": "all"})).kept == 80
    assert workload_of(load_recipe("fast_dfkd/digits", {**overrides, **fed, "synthesis.record": 500.0})).kept == 80
    with pytest.raises(ConfigError, match=r"synthesis.record = 30 is not allowed with synthesis.feed: pool: .* leave record out"):
        load_recipe("fast_dfkd/digits", {**overrides, **fed, "synthesis.feed": "pool"})


@pytest.mark.parametrize(("given", "allowed"), [(1, "greater than or equal to 2"), ("some", "a valid integer, unable to parse .*")])
def test_a_value_of_two_types_is_refused_by_its_path_and_both(given: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^synthesis.record = {given!r} is not allowed: input should be 'all' or {allowed}[.]$"):
        load_recipe("fast_dfkd/digits", {"synthesis.record": given})


def test_closing_rounds_cost_steps_and_no_images() -> None:
    overrides = {"synthesis.rounds": 12, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    overrides["synthesis.closing_rounds"] = 3
    assert workload_of(load_recipe("fast_dfkd/digits", overrides)) == Workload(images=120, student_steps=77)


@pytest.mark.parametrize(("feed", "images"), [("round", 80 + 4), ("fresh", 12 + 6 * 20 + 50 * 30)])
def test_cost_online_counts_what_the_student_is_shown_and_what_is_held_out(feed: str, images: int) -> None:
    overrides = {"synthesis.rounds": 12, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    stage = load_recipe("fast_dfkd/digits").student.stages[0].to_json()
    stages = [{**stage, "epochs": 2, "steps_per_epoch": 3, "batch": 20}, {**stage, "epochs": 1, "steps_per_epoch": 1, "batch": 30}]
    fed = {"synthesis.feed": feed, "set.holdout": 0.1, "student.stages": stages}
    assert workload_of(load_recipe("fast_dfkd/digits", {**overrides, **fed})) == Workload(images, student_steps=56)


def test_images_of_another_domain_are_not_counted_among_those_that_are_made() -> None:
    overrides = {"synthesis.rounds": 12, "synthesis.config.warmup": 4, "synthesis.config.batch": 10, "synthesis.student_steps_per_turn": 7}
    stage = load_recipe("fast_dfkd/digits").student.stages[0].to_json()
    stages = [
        {**stage, "epochs": 2, "steps_per_epoch": 3, "batch": 20, "ood_share": 0.25},
        {**stage, "epochs": 1, "steps_per_epoch": 1, "batch": 30, "ood_share": 0.01},
    ]
    fed = {"synthesis.feed": "fresh", "set.holdout": 0.1, "student.stages": stages}
    assert workload_of(load_recipe("fast_dfkd/digits", {**overrides, **fed})).images == 12 + 6 * 15 + 50 * 29


def test_cost_offline_counts_passes_over_the_training_part() -> None:
    stage = {"student.stages.0.epochs": 3, "student.stages.0.batch": 100, "student.stages.0.steps_per_epoch": 0}
    overrides = {"set.size": 1000, "set.holdout": 0.1, **stage}
    assert workload_of(load_recipe("ls_gdfd/digits", overrides)) == Workload(images=1000, student_steps=27)
    overrides["student.stages.0.steps_per_epoch"] = 5
    assert workload_of(load_recipe("ls_gdfd/digits", overrides)) == Workload(images=1000, student_steps=15)


def test_an_online_epoch_without_a_length_is_a_rounds_steps() -> None:
    overrides = {"synthesis.student_steps_per_turn": 9, "student.stages.0.steps_per_epoch": 0}
    assert load_recipe("fast_dfkd/digits", overrides).student.stages[0].steps_per_epoch == 9
    assert load_recipe("fast_dfkd/digits", {"student.stages.0.steps_per_epoch": 4}).student.stages[0].steps_per_epoch == 4
    assert load_recipe("ls_gdfd/digits", {"student.stages.0.steps_per_epoch": 0}).student.stages[0].steps_per_epoch == 0
