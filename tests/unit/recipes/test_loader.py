import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery.methods.catalog import find_method
from distillery.plain_yaml import write_yaml
from distillery.recipes.loader import (
    apply_overrides,
    list_recipes,
    load_document,
    load_recipe,
    parse_assignments,
    recipe_name,
    recipe_names,
)

OWN = """
extends: fast_dfkd/digits
synthesis:
  rounds: 12
  config: {steps: 2, reset: off}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    return path


def test_names_are_unique_sorted_and_hide_the_bases() -> None:
    names = recipe_names()
    assert names == sorted(set(names))
    assert "fast_dfkd/digits" in names
    assert not [name for name in names if name.startswith("_")]


def test_a_base_is_not_a_recipe() -> None:
    with pytest.raises(ConfigError, match="no recipe '_base/fast_dfkd-cifar'"):
        load_document("_base/fast_dfkd-cifar")


def test_listing_carries_method_and_about_of_the_bases() -> None:
    listing = {row.name: row for row in list_recipes()}["fast_dfkd/cifar10-wrn40_2-wrn16_1-k5"]
    assert listing.method == "fast_dfkd"
    assert listing.about["paper"] == "arXiv:2112.07327 (AAAI 2022)"
    assert listing.about["images"] == 56320


def test_listing_imports_neither_torch_nor_a_config_class() -> None:
    code = "import sys; from distillery.recipes.loader import list_recipes; list_recipes(); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "yaml" in loaded
    assert not {"torch", "kfp", "mlflow", "pydantic", "distillery.methods.fast_dfkd"} & set(loaded)


def test_extends_merges_deeply(own: Path) -> None:
    recipe = load_recipe(str(own))
    assert recipe.synthesis.rounds == 12
    assert recipe.synthesis.config["steps"] == 2
    assert recipe.synthesis.config["label_weight"] == 4.0
    assert recipe.student.architecture.arguments == {"base_width": 16}


def test_what_a_preset_says_of_itself_is_not_said_of_a_file_that_extends_it(own: Path) -> None:
    recipe = load_recipe(str(own))
    assert load_recipe("fast_dfkd/digits").about.title == "FastDFKD on scikit-learn's digits at 16 px"
    assert recipe.about == type(recipe.about)()
    own.write_text("extends: fast_dfkd/digits\nabout: {title: Mine}\n")
    assert load_recipe(str(own)).about == type(recipe.about)(title="Mine")
    second = own.with_name("second.yaml")
    second.write_text("extends: mine.yaml\n")
    assert load_recipe(str(second)).about.title == ""


def test_off_is_a_word_and_not_false(own: Path) -> None:
    assert load_recipe(str(own)).synthesis.config["reset"] == "off"
    assert parse_assignments(["a.b=off", "c=true", "d=1"]) == {"a.b": "off", "c": True, "d": 1}


def test_a_file_may_extend_another_beside_it(own: Path) -> None:
    second = own.with_name("second.yaml")
    second.write_text("extends: mine.yaml\nsynthesis: {rounds: 13}\n")
    recipe = load_recipe(str(second))
    assert (recipe.synthesis.rounds, recipe.synthesis.config["steps"]) == (13, 2)


def test_a_number_as_key_changes_one_element_of_a_list(own: Path) -> None:
    own.write_text("extends: fast_dfkd/digits\nstudent: {stages: {0: {batch: 32}}}\n")
    stage = load_recipe(str(own)).student.stages[0]
    assert (stage.batch, stage.optimizer.rate) == (32, 0.1)


def test_file_uri(own: Path) -> None:
    assert load_recipe(own.as_uri()).synthesis.rounds == 12


def test_the_name_of_a_file_is_its_stem() -> None:
    assert recipe_name("/somewhere/private/mine.yaml") == "mine"
    assert recipe_name("fast_dfkd/digits") == "fast_dfkd/digits"


def test_bases_stay_as_they_are(own: Path) -> None:
    before = load_document("fast_dfkd/digits")
    load_recipe(str(own), {"student.stages.0.epochs": 3})
    assert load_document("fast_dfkd/digits") == before


def test_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(ConfigError, match="circle.*a.yaml -> .*b.yaml -> .*a.yaml"):
        load_document(str(tmp_path / "a.yaml"))


def test_overrides_reach_elements_of_lists_and_leave_the_document() -> None:
    document: dict[str, Any] = {"student": {"stages": [{"epochs": 3}, {"epochs": 4}]}}
    changed = apply_overrides(document, {"student.stages.1.epochs": 9, "set": {"size": 5}})
    assert changed == {"student": {"stages": [{"epochs": 3}, {"epochs": 9}]}, "set": {"size": 5}}
    assert document == {"student": {"stages": [{"epochs": 3}, {"epochs": 4}]}}


def test_an_element_may_be_a_list_or_a_value() -> None:
    assert apply_overrides({"a": [[1, 2], 3]}, {"a.0.1": 5, "a.1": 6}) == {"a": [[1, 5], 6]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"student.stages.1.epochs": 3}, "student.stages.1 does not exist: student.stages is a list of 1"),
        ({"student.stages.-1.epochs": 3}, "does not exist"),
        ({"synthesis.rounds.x": 3}, r"synthesis\.rounds = \d+ is a plain value"),
        ({"studnet.x": 3}, "'studnet'; allowed here: .*did you mean 'student'"),
        ({"synthesis.config.stps": 3}, "'synthesis.config.stps'; allowed here: .*did you mean 'steps'"),
        ({"synthesis.config.augment.flp": 3}, "'synthesis.config.augment.flp'; .*did you mean 'flip'"),
        ({"student.stages.0.epocs": 3}, "'student.stages.0.epocs'; .*did you mean 'epochs'"),
        ({"student.stages.0.objectives.0.temperatur": 3}, "did you mean 'temperature'"),
        ({"student.architecture.name": "resnet_18"}, "no architecture 'resnet_18'.*did you mean 'resnet18'"),
        ({"synthesis.method": "fast_dkfd"}, "no method 'fast_dkfd'.*did you mean 'fast_dfkd'"),
        ({"synthesis.rounds": "many"}, "synthesis.rounds = 'many' is not allowed"),
        ({"synthesis.config.steps": 1.5}, r"synthesis.config.steps = 1.5 is not allowed"),
        ({"set": 3}, "set = 3 is not allowed"),
        ({"registration.model_name": 2024}, "registration.model_name = 2024 is not allowed: give a text.*needs quotes"),
        ({"student.stages.0.batch.x": 3}, r"^student\.stages\.0\.batch = 64 is a plain value"),
        ({"student.architecture.arguments.eps": float("inf")}, "argument 'eps' is inf.*give a finite number"),
        ({"set.holdout": 0.9}, "set.holdout = 0.9 is not allowed"),
        ({"synthesis.rounds": 10, "synthesis.config.warmup": 10}, "synthesis.rounds = 10 is not allowed: FastDFKD warms up for 10 turns"),
        ({"synthesis.student_steps_per_turn": 0}, "synthesis.student_steps_per_turn is missing"),
        (
            {"synthesis.closing_rounds": 5, "synthesis.feed": "round"},
            "synthesis.closing_rounds = 5 is not allowed with synthesis.feed: round: no images come any more",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("fast_dfkd/digits", overrides)
    assert "\n" not in str(caught.value)


def test_whole_floats_are_the_same_configuration() -> None:
    whole, floats = ({"synthesis.rounds": number(21), "synthesis.config.steps": number(3)} for number in (int, float))
    assert load_recipe("fast_dfkd/digits", floats).digest() == load_recipe("fast_dfkd/digits", whole).digest()


@pytest.mark.parametrize("name", ["fast_dfkd/digit", "fast_dkfd/digits"])
def test_unknown_recipe_names_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no recipe '{name}'.*did you mean 'fast_dfkd/digits'"):
        load_document(name)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no recipe file"):
        load_document(str(tmp_path / "none.yaml"))
    for text, message in (
        ("a: b: c", r"not YAML \(line 1\)"),
        ("a: 1\nb: 2\na: 3", r"not YAML \(line 3\): the key 'a' stands there twice, correct the file"),
        ("a: &x {b: *x}", r"not YAML \(line 1\)"),
        ("a: !!python/name:os.system ''", r"not YAML \(line 1\)"),
        ("[" * 3000 + "]" * 3000, "not YAML"),
        ("- 1", "no mapping"),
        ("extends: [a]", "extends = "),
        (b"\xff", "not YAML"),
    ):
        (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError, match=message):
            load_document(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("text", ["synthesis.rounds", "=3", "a=[1", f"a={'9' * 5000}", "a={b: 1, b: 2}", "a=\udcff"])
def test_bad_assignments(text: str) -> None:
    for flag in ("--set", "--argument"):
        with pytest.raises(ConfigError, match=flag):
            parse_assignments([text], flag)


def test_numbers_are_read_alike_on_the_command_line_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: fast_dfkd/digits\nstudent: {architecture: {name: mine:net, arguments: {eps: 1e-5, when: 12:30, no: 017}}}"
    )
    in_file = load_recipe(str(tmp_path / "mine.yaml")).student.architecture.arguments
    assignments = parse_assignments([f"student.architecture.{text}" for text in ("name=mine:net", "arguments={eps: 1e-5, when: 12:30}")])
    on_line = load_recipe("fast_dfkd/digits", {**assignments, "student.architecture.arguments.no": 17}).student.architecture.arguments
    assert in_file == on_line == {"eps": 1e-05, "when": "12:30", "no": 17}


DOORS = {
    "dotted": {"student.architecture.name": "lenet5", "student.architecture.arguments.batch_norm": True},
    "arguments first": {"student.architecture.arguments.batch_norm": True, "student.architecture.name": "lenet5"},
    "one mapping": {"student.architecture": {"name": "lenet5", "arguments": {"batch_norm": True}}},
    "nested": {"student": {"architecture": {"name": "lenet5", "arguments": {"batch_norm": True}}}},
    "mixed": {"student": {"architecture": {"arguments": {"batch_norm": True}}}, "student.architecture.name": "lenet5"},
}


@pytest.mark.parametrize("door", DOORS)
def test_another_architecture_comes_with_its_own_arguments_only(tmp_path: Path, door: str) -> None:
    assert load_recipe("fast_dfkd/digits", DOORS[door]).student.architecture.arguments == {"batch_norm": True}
    document = {"extends": "fast_dfkd/digits", **apply_overrides({}, DOORS[door])}
    (tmp_path / "mine.yaml").write_text(write_yaml(document))
    assert load_recipe(str(tmp_path / "mine.yaml")).student.architecture.arguments == {"batch_norm": True}


def test_another_name_of_a_part_comes_with_its_own_settings_only() -> None:
    changes = {
        "student.stages.0.objectives.0.name": "kd",
        "student.stages.0.optimizer.name": "adam",
        "student.stages.0.optimizer.rate": 0.001,
        "student.stages.0.schedule.name": "constant",
        "synthesis.config.generator.name": "deep",
    }
    document = {
        "student": {
            "stages": [
                {
                    "objectives": [{"name": "hint", "teacher": "network.stem"}, {"name": "hint", "weight": 2}],
                    "optimizer": {"name": "sgd", "rate": 0.2, "momentum": 0.8},
                    "schedule": {"name": "cosine", "minimum": 0.1},
                }
            ]
        },
        "synthesis": {"config": {"generator": {"name": "generator", "width": 8}}},
    }
    changed = apply_overrides(document, changes)
    (stage,) = changed["student"]["stages"]
    assert stage["objectives"] == [{"name": "kd"}, {"name": "hint", "weight": 2}]
    assert (stage["optimizer"], stage["schedule"]) == ({"name": "adam", "rate": 0.001}, {"name": "constant"})
    assert changed["synthesis"]["config"]["generator"] == {"name": "deep"}
    kept = apply_overrides(document, {"student.stages.0.optimizer": {"name": "sgd", "rate": 0.1}})
    assert kept["student"]["stages"][0]["optimizer"] == {"name": "sgd", "rate": 0.1, "momentum": 0.8}


def test_the_same_architecture_keeps_its_arguments() -> None:
    merged = load_recipe("fast_dfkd/digits", {"student.architecture.name": "resnet8", "student.architecture.arguments.shortcut": "B"})
    assert merged.student.architecture.arguments == {"base_width": 16, "shortcut": "B"}
    changed = load_recipe("fast_dfkd/digits", {"student.architecture.name": "resnet20"})
    assert changed.student.architecture.arguments == {}
    assert changed.student.stages == merged.student.stages


def test_another_method_comes_with_its_own_settings_only() -> None:
    recipe = load_recipe("fast_dfkd/digits", {"synthesis.config.batch": 32, "synthesis.method": "ls_gdfd"})
    settings = find_method("ls_gdfd").load()[1].parse({"batch": 32})
    assert recipe.synthesis.config == settings.to_json()
    assert recipe.synthesis.rounds == 48


def test_a_text_with_an_equals_sign_stays_whole() -> None:
    assert parse_assignments(["about.title=a=b"]) == {"about.title": "a=b"}


def test_rounds_before_the_only_term_begins_are_refused() -> None:
    alone = {"synthesis.config.moments_weight": 0, "synthesis.config.label_weight": 0}
    with pytest.raises(ConfigError, match=r"begins with round 8 \(warmup\), so the rounds before have nothing .* or lower warmup to 1"):
        load_recipe("fast_dfkd/digits", alone)
    for warmup in (0, 1):
        assert load_recipe("fast_dfkd/digits", {**alone, "synthesis.config.warmup": warmup}).synthesis.config["warmup"] == warmup


def test_what_several_keys_forbid_together_is_said_without_the_whole_section() -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast_dfkd/digits", {"student.stages.0.objectives.0.soft": 0})
    assert str(refused.value) == "student.stages.0.objectives.0 is not allowed: soft and hard are both 0: one of them must be above 0."
