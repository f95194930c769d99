"""A method whose target is images runs through a pipeline without a generator: a toy, whatever is shipped."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from chains import EXPECTS, SHARED, Chain, make_teacher
from distillery.data.reference import open_reference
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.evaluation.report import load_report
from distillery.ledger.audit import audit
from distillery.models.bundle import read_bundle
from distillery.recipes import loader
from distillery.recipes.loader import list_recipes, load_recipe
from distillery.step_table import PIPELINES, STEPS
from distillery.steps import materialize
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.form import ALL, literals
from distillery_kfp.pipelines.metadata import component
from distillery_kfp.pipelines.runner.request import RunRequest
from toy_methods import TOYS, registered

NAME, MODULE = "toy_inversion/digits", "distillery_kfp.pipelines.inversion_distillation"
RECIPE = {
    "about": {"title": "A toy."},
    "synthesis": {"method": "toy_inversion", "config": TOYS["toy_inversion"].tiny},
    "set": {"size": 24, "max_oversampling": 3.0},
    "student": {"architecture": SHARED["student.architecture"], "stages": SHARED["student.stages"]},
    "evaluation": {"latency": False},
    "expects": {name.removeprefix("expects."): value for name, value in EXPECTS.items()},
}
WIRED = {
    "plan": set(),
    "extract-statistics": {"plan"},
    "materialize": {"plan", "extract-statistics"},
    "train-student": {"plan", "materialize"},
    "evaluate": {"plan", "train-student", "materialize"},
    "register": {"plan", "train-student", "evaluate"},
}


@pytest.fixture(scope="module")
def _shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy is in the catalog, and its recipe among the presets, as if it were shipped."""
    presets = tmp_path_factory.mktemp("presets")
    (presets / "toy_inversion").mkdir()
    (presets / f"{NAME}.yaml").write_text(yaml.safe_dump(RECIPE))
    row = replace(PIPELINES["inversion_distillation"], recipe=NAME)
    with registered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "PRESETS", presets)
        patch.setitem(PIPELINES, row.name, row)
        before = sys.modules.pop(MODULE, None)  # its form opens with the recipe that the table names while it is imported
        yield
        sys.modules.pop(MODULE, None)
        if before:
            sys.modules[MODULE] = before


@pytest.fixture(scope="module")
def chain(_shipped: None, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("inversion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Chain(folder, NAME, str(folder / "store")).make()


def test_a_pipeline_is_offered_where_a_preset_asks_for_it() -> None:
    assert {recipe.pipeline for recipe in list_recipes()} == set(ALL)


@pytest.mark.usefixtures("_shipped")
def test_its_recipe_finds_it() -> None:
    assert [(recipe.name, recipe.pipeline) for recipe in list_recipes()] == [(NAME, "inversion_distillation")]
    assert load_recipe(NAME).pipeline == "inversion_distillation"
    assert RunRequest(NAME, "teacher", "store", Path("work")).pipeline() == "inversion_distillation"


@pytest.mark.usefixtures("_shipped")
def test_it_compiles_to_a_graph_without_a_generator() -> None:
    spec, _ = yaml.safe_load_all(compile_text("inversion_distillation"))  # which holds every rule of the lint
    tasks = spec["root"]["dag"]["tasks"]
    assert {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()} == WIRED
    assert set(tasks["materialize"]["inputs"]["artifacts"]) == {"statistics"}
    form = spec["root"]["inputDefinitions"]["parameters"]
    assert form["run_recipe"]["literals"] == list(literals("inversion_distillation")["run_recipe"]) == [NAME]
    assert form["run_recipe"]["defaultValue"] == NAME
    assert "synth_size" in form
    assert "gen_rounds" not in form, "nothing is trained in rounds"


def test_every_step_runs(chain: Chain) -> None:
    out = chain.folder / chain.run
    assert set(chain.sections) == {STEPS[step].section for step in PIPELINES["inversion_distillation"].steps} - {""}
    assert not (out / "synthesizer").exists()
    found = open_reference(out / "set", read_bundle(chain.teacher)[1])
    assert found.manifest.images + found.manifest.holdout + sum(found.manifest.shortfall) == 24
    assert found.manifest.synthesizer_sha256 == ""
    assert set(found.manifest.provenance.inputs) == {"teacher"}
    assert load_report(out / "report.json").student.sha256 == read_bundle(chain.student)[1]
    assert chain.registered["student_sha256"] == read_bundle(chain.student)[1]


def test_the_page_and_the_audit_know_of_no_generator(chain: Chain) -> None:
    page = (chain.folder / chain.run / "report.html").read_text()
    assert "Drawing the synthetic set" in page
    assert "What made the pictures up" not in page
    links = {link.name: (link.state, link.note) for link in audit(f"{chain.store}/{chain.key}")}
    assert links["generator"] == ("unused", "the images were made from nothing, one by one")
    assert links["statistics"] == ("unused", "the method reads none")
    assert {name for name, (state, _) in links.items() if state == "ok"} == {"student", "run", "set", "teacher"}


def test_its_component_takes_no_synthesizer(chain: Chain, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {}
    statistics, dataset = (SimpleNamespace(path=str(path)) for path in (chain.folder / chain.run / "statistics", tmp_path / "set"))
    with chain.environment():
        component("materialize").python_func(
            section=chain.sections["materialize"],
            teacher_uri=str(chain.teacher),
            accelerators="0",
            synth_ood_uri="",
            statistics=statistics,
            dataset=dataset,
            metrics=SimpleNamespace(log_metric=numbers.__setitem__),
        )
    before = json.loads((chain.folder / chain.run / "set" / "manifest.json").read_bytes())
    assert json.loads((tmp_path / "set" / "manifest.json").read_bytes()) == before
    assert numbers["drawn"] >= 24 - sum(before["shortfall"])


def test_a_synthesizer_that_is_too_much_or_missing_is_refused(chain: Chain, tmp_path: Path) -> None:
    section, outputs = chain.sections["materialize"], materialize.Outputs(set=tmp_path / "set")
    given = materialize.Inputs(teacher_uri=str(chain.teacher), synthesizers=(tmp_path,))
    with chain.environment(), pytest.raises(ConfigError, match="makes its images from nothing: leave the synthesizer .* out"):
        materialize.run(section, given, outputs)
    trained = {**section, "method": "toy_decoder", "method_config": TOYS["toy_decoder"].tiny}
    with chain.environment(), pytest.raises(ConfigError, match="toy_decoder draws from a trained generator, and none is given"):
        materialize.run(trained, materialize.Inputs(teacher_uri=str(chain.teacher)), outputs)


def test_another_teacher_is_refused_as_everywhere(chain: Chain, tmp_path: Path) -> None:
    other = make_teacher(tmp_path / "other", seed=1)
    with chain.environment(), pytest.raises(CheckpointMismatchError):
        materialize.run(
            chain.sections["materialize"], materialize.Inputs(teacher_uri=str(other)), materialize.Outputs(set=tmp_path / "set")
        )
