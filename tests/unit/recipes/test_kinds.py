"""A recipe is parsed by the class of its kind; there is one kind yet, and a toy beside it proves that there may be more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.recipes import loader, schema
from distillery.recipes.loader import apply_overrides, list_recipes, load_document, load_recipe, pipeline_of
from distillery.recipes.schema import DistillationRecipe, read_recipe
from distillery.step_table import DEFAULT_KIND, PIPELINES, Pipeline
from distillery_kfp.pipelines.runner.request import RunRequest


class Toy(Config):
    """A recipe that compresses a data set into a few images."""

    kind: Literal["toy"] = "toy"
    about: dict[str, str] = {}
    images: int = 10

    @classmethod
    def resolve(cls, document: Mapping[str, Any]) -> "Toy":
        return cls.parse(document)


@pytest.fixture
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.KINDS, "toy", Toy)  # type: ignore[arg-type]
    monkeypatch.setitem(PIPELINES, "toys", Pipeline("toys", ("plan",), kind="toy"))
    monkeypatch.setattr(loader, "PRESETS", tmp_path)
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "small.yaml").write_text(yaml.safe_dump({"kind": "toy", "images": 3, "about": {"title": "small"}}))


def test_a_recipe_that_names_no_kind_is_of_the_first_and_hashes_as_ever() -> None:
    plain, named = load_recipe("ls_gdfd/digits"), load_recipe("ls_gdfd/digits", {"kind": DEFAULT_KIND})
    assert type(plain) is DistillationRecipe
    assert plain.digest() == named.digest()
    assert "kind" not in plain.to_json()
    assert read_recipe(plain.to_json()) == plain


def test_every_kind_of_the_table_has_a_class() -> None:
    assert set(schema.KINDS) == {row.kind for row in PIPELINES.values()}


@pytest.mark.parametrize("kind", ["distilation", "", 3, ["distillation"], None])
def test_an_unknown_kind_names_the_known_ones_at_every_door(kind: object) -> None:
    document = apply_overrides(load_document("ls_gdfd/digits"), {"kind": kind})
    for door in (
        lambda: read_recipe(document),
        lambda: pipeline_of(document),
        lambda: RunRequest("ls_gdfd/digits", "t", "s", Path("w"), overrides={"kind": kind}).pipeline(),
    ):
        with pytest.raises(ConfigError, match=r"^There is no kind of recipe .*; known: distillation[.,]"):
            door()


@pytest.mark.usefixtures("_toy")
def test_another_kind_has_its_own_keys_and_pipeline() -> None:
    recipe = load_recipe("toys/small", {"images": 4.0})
    assert isinstance(recipe, Toy)
    assert recipe.images == 4
    assert pipeline_of(load_document("toys/small")) == "toys"
    assert [(preset.name, preset.method, preset.pipeline) for preset in list_recipes()] == [("toys/small", "", "toys")]
    assert RunRequest("toys/small", "t", "s", Path("w")).pipeline() == "toys"
    with pytest.raises(ConfigError, match="Unknown key 'synthesis'; allowed here: about, images, kind"):
        load_recipe("toys/small", {"synthesis": {"method": "ls_gdfd"}})
    with pytest.raises(ConfigError, match="no kind of recipe 'tyo'; known: distillation, statistics, student, toy, did you mean 'toy'"):
        load_recipe("toys/small", {"kind": "tyo"})


def test_labels_that_are_let_be_are_refused_where_an_objective_needs_them() -> None:
    said = r"^data\.labels: ignore lets labels be, and the objective cross_entropy of student\.stages\.0 needs them: set it to auto"
    with pytest.raises(ConfigError, match=said):
        load_recipe("students/digits-plain", {"data.labels": "ignore"})
    for method in ("students/digits-kd", "students/digits-plain"):
        load_recipe(method, {"data.labels": "read"})
    load_recipe("students/digits-kd", {"data.labels": "ignore"})


def test_a_recipe_of_statistics_leaves_behind_what_another_kind_alone_reads() -> None:
    document = load_document("deep_inversion/digits")
    changed = apply_overrides(document, {"kind": "statistics", "per_class": 7, "synthesis.config.steps": 3})
    assert set(changed) == {"about", "expects", "kind", "per_class", "set", "synthesis"}
    assert "size" not in changed["set"]
    assert document["student"], "the other recipe stays as it was"
    assert not {"student", "student_steps", "images"} & set(changed["about"])
    recipe = read_recipe(changed)
    assert (recipe.pipeline, recipe.per_class) == ("class_statistics", 7)  # type: ignore[union-attr]
    assert read_recipe(recipe.to_json()) == recipe
    with pytest.raises(ConfigError, match="Unknown key 'student'"):
        read_recipe({**changed, "student": document["student"]})
    with pytest.raises(ConfigError, match="^per_class has no effect without synthesis.method"):
        load_recipe("statistics/images", {"per_class": 7})
    assert "per_class" not in load_recipe("statistics/images").to_json()
