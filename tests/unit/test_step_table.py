"""The table of steps says what the steps, their components and the pipelines are, and no other place says it again."""

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from distillery import step_table
from distillery.errors import ConfigError
from distillery.methods.catalog import METHODS
from distillery.recipes.loader import list_recipes
from distillery.recipes.sections import SECTIONS
from distillery.step_table import PIPELINES, STEPS, Artifact, find_pipeline, makers_of

ROOT = Path(__file__).parents[2]
KINDS = {
    "statistics": step_table.StatisticsFile,
    "class_statistics": step_table.ClassStatisticsFile,
    "synthesizer": step_table.SynthesizerFolder,
    "set": step_table.SetFolder,
    "student": step_table.StudentFolder,
    "report": step_table.ReportFile,
    "page": step_table.PageFile,
    "registration": step_table.RegistrationFile,
}
WORKING = [name for name in STEPS if name != "plan"]


def artifacts_of(cls: type) -> set[str]:
    """Fields of a class that are artifacts, each of which must be of its own kind."""
    found = {name: [hint, *get_args(hint)] for name, hint in get_type_hints(cls).items()}
    named = {name for name, hints in found.items() if any(kind in hints for kind in KINDS.values())}
    meant = {name: name if name in KINDS else name.removesuffix("s") for name in named}
    assert all(KINDS[meant[name]] in found[name] for name in named)
    return set(meant.values())


def test_every_artifact_has_a_kind_of_its_own() -> None:
    assert set(KINDS) == set(get_args(Artifact))
    assert len(set(KINDS.values())) == len(KINDS)


@pytest.mark.parametrize("name", WORKING)
def test_a_step_reads_and_writes_what_its_row_says(name: str) -> None:
    module = import_module(f"distillery.steps.{name}")
    row = STEPS[name]
    assert artifacts_of(module.Outputs) == {field.name for field in fields(module.Outputs)} == set(STEPS[name].writes)
    assert artifacts_of(module.Inputs) >= set(row.reads)
    assert set(row.gathers) <= set(row.reads)
    given = {field.name for field in fields(module.Inputs)}
    assert {f"{artifact}s" if artifact in row.gathers else artifact for artifact in row.reads} <= given
    assert STEPS[name].section in SECTIONS


def test_every_section_is_of_one_step() -> None:
    assert sorted(row.section for row in STEPS.values() if row.section) == sorted(SECTIONS)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda row: row.name)
def test_a_pipeline_reads_only_what_it_has_written(pipeline: step_table.Pipeline) -> None:
    written: set[str] = set()
    for step in pipeline.steps:
        optional = {"synthesizer"} if step == "materialize" and "images" in pipeline.targets else set()
        assert set(STEPS[step].reads) - optional <= written, step
        assert not set(STEPS[step].writes) & written, step
        written |= set(STEPS[step].writes)
    assert pipeline.steps[0] == "plan"
    assert [name for name in pipeline.steps if STEPS[name].ends] == [pipeline.steps[-1]], "one step notes where everything lies, the last"


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda row: row.name)
def test_a_pipeline_is_offered_exactly_where_a_preset_asks_for_it(pipeline: step_table.Pipeline) -> None:
    presets = [recipe.name for recipe in list_recipes() if recipe.pipeline == pipeline.name]
    assert pipeline.recipe in presets if presets else not pipeline.recipe


def test_every_method_has_a_pipeline() -> None:
    assert {row.pipeline for row in METHODS.values()} <= set(PIPELINES)


@pytest.mark.parametrize(
    ("asked", "pipeline"),
    [
        ({"coupling": "offline", "target": "generator"}, "generative_distillation"),
        ({"coupling": "offline", "target": "generator", "generators": 10}, "ensemble_distillation"),
        ({"coupling": "offline", "target": "images"}, "inversion_distillation"),
        ({"coupling": "online", "target": "generator"}, "online_distillation"),
        ({"coupling": "online", "target": "images"}, "online_distillation"),
        ({"kind": "student"}, "student_distillation"),
        ({"kind": "statistics", "coupling": "offline", "target": "images"}, "class_statistics"),
        ({"kind": "statistics"}, "image_statistics"),
    ],
)
def test_a_pipeline_is_found_by_what_a_recipe_is(asked: dict[str, str], pipeline: str) -> None:
    assert find_pipeline(**asked) == pipeline  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"kind": "distilation"},
            r"no kind of recipe 'distilation'; known: distillation, statistics, student, did you mean 'distillation'\?$",
        ),
        (
            {"coupling": "online", "target": "generator", "generators": 10},
            "^No pipeline runs an online method that optimises 10 generators: distillation has generative_distillation, ",
        ),
        ({"coupling": "online", "target": "images", "generators": 2}, "^No pipeline runs an online method that optimises images"),
    ],
)
def test_what_no_pipeline_runs_is_refused(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        find_pipeline(**asked)  # type: ignore[arg-type]


def test_a_pipeline_for_several_generators_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    many = step_table.Pipeline("many", (), coupling="online", targets=("generator",), fanned=("distill_online",))
    monkeypatch.setitem(PIPELINES, "many", many)
    for coupling, one, several in (
        ("online", "online_distillation", "many"),
        ("offline", "generative_distillation", "ensemble_distillation"),
    ):
        asked = {"coupling": coupling, "target": "generator"}
        assert [find_pipeline(**asked, generators=n) for n in (1, 2, 100)] == [one, several, several]


def test_a_fanned_step_has_a_section_a_task() -> None:
    ensemble, single = PIPELINES["ensemble_distillation"].sections, PIPELINES["generative_distillation"].sections
    assert (set(ensemble) - set(single), set(single) - set(ensemble)) == ({"shards"}, {"generator"})
    row = STEPS["train_generator"]
    assert row.planned({"generator": {"a": 1}}) == ({"a": 1},)
    assert row.planned({"shards": [{"a": 1}, {"a": 2}]}) == ({"a": 1}, {"a": 2})
    assert row.planned({"distill": {}}) == STEPS["plan"].planned({"shards": [{}]}) == ()


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda row: row.name)
def test_what_a_fanned_step_writes_is_gathered(pipeline: step_table.Pipeline) -> None:
    assert set(pipeline.fanned) <= {name for name in pipeline.steps if STEPS[name].sections}
    assert bool(pipeline.fanned) == bool(pipeline.parallel)
    readers = {artifact for name in pipeline.steps for artifact in set(STEPS[name].reads) - set(STEPS[name].gathers)}
    assert not readers & {artifact for name in pipeline.fanned for artifact in STEPS[name].writes}


def test_who_makes_an_artifact() -> None:
    assert makers_of("set") == ("materialize", "distill_online")
    assert makers_of("student") == ("train_student", "distill_online")


def test_no_other_file_lists_the_steps() -> None:
    """Three step names in one file are a table; the modules of the steps, the components and the graphs of kfp are what the rows name."""
    quoted = re.compile(rf"""["']({"|".join(STEPS)})["']""")
    exempt = {ROOT / "src/distillery/step_table.py", *(ROOT / "src/distillery/steps").glob("*.py")}
    sources = {path for folder in ("src", "pipelines", "components") for path in (ROOT / folder).rglob("*.py")} - exempt
    named = {path.relative_to(ROOT).as_posix(): set(quoted.findall(path.read_text())) for path in sources}
    assert {path: names for path, names in named.items() if len(names) > 2} == {}
