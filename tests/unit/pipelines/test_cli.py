"""The command: what answers at once imports nothing heavy, and wrong use is one line."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from distillery.recipes.loader import load_document, recipe_folders, recipe_names
from distillery.recipes.student_plans import plan_names
from distillery.students.catalog import OBJECTIVES
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.cli import listing
from distillery_kfp.pipelines.runner import display

PROBE = """
import json, resource, sys
from distillery_kfp.pipelines.cli import app as cli
sys.argv = ["distillery", *json.loads(sys.argv[1])]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in ("torch", "kfp", "mlflow", "numpy", "safetensors") if name in sys.modules]
print(json.dumps([heavy, used.ru_utime + used.ru_stime]), file=sys.stderr)
"""


ANSWERED_AT_ONCE = (
    ["--help"],
    ["run", "--help"],
    ["prune", "--help"],
    ["recipes"],
    ["recipes", "fast_dfkd/digits"],
    ["recipes", "fast_dfkd"],
    ["methods"],
    ["objectives"],
    ["schedule", "--help"],
    ["submit", "--help"],
    ["cluster-runs", "--help"],
    ["upload", "--help"],
)


@pytest.mark.parametrize("words", ANSWERED_AT_ONCE, ids=" ".join)
def test_answers_at_once(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(words)], capture_output=True, text=True, check=True)
    heavy, seconds = json.loads(done.stderr.splitlines()[-1])
    assert heavy == []
    assert seconds < 0.5 * 2, "half a second, doubled for machines that are busy with other tests"


def shown(function: object, *more: str) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    assert callable(function)
    function(console, *more)
    return console.export_text()


def test_recipes_lists_all_with_what_they_cost() -> None:
    text = shown(listing.show_recipes)
    assert all(name in text for name in recipe_names())
    about = load_document("fast_dfkd/digits")["about"]
    (line,) = [line for line in text.splitlines() if line.startswith("fast_dfkd/digits ")]
    assert all(words in line for words in ("WRN-16-2", f"{about['images']:,}", f" {about['student_steps']:,}"))


@pytest.mark.parametrize("folder", recipe_folders())
def test_recipes_of_one_folder_are_listed_alone(folder: str) -> None:
    listed = [line.split()[0] for line in shown(listing.show_recipes, folder).splitlines() if "/" in line.split(" ")[0]]
    assert listed == [name for name in recipe_names() if name.startswith(f"{folder}/")]


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("ls_gdfd/digits", "generative_distillation (LS-GDFD, offline)"),
        ("ls_gdfd/digits-ensemble", "ensemble_distillation (LS-GDFD, offline)"),
        ("students/digits-kd", "student_distillation"),
    ],
)
def test_recipe_shows_its_values_and_its_pipeline(name: str, pipeline: str) -> None:
    text = shown(listing.show_recipe, name)
    assert re.search(rf"pipeline +{re.escape(pipeline)}$", text, re.MULTILINE)
    assert "resnet8" in text


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fast_dfkd/digits", "# Next: distillery run fast_dfkd/digits --teacher BUNDLE --data TEST_IMAGES"),
        ("students/digits-kd", "# Next: distillery run students/digits-kd --teacher BUNDLE --images IMAGES --data TEST_IMAGES"),
    ],
)
def test_a_recipe_ends_with_the_command_that_runs_it(name: str, command: str) -> None:
    assert shown(listing.show_recipe, name).splitlines()[-1] == command


def test_recipes_that_are_run_in_other_ways_are_told_apart() -> None:
    asked = "distillery run NAME --teacher BUNDLE --images IMAGES --data TEST_IMAGES"
    assert shown(listing.show_recipes, "students").splitlines()[-1] == f"Next: distillery recipes NAME, or {asked}"
    first, *others = shown(listing.show_recipes).split("Next: ")[1].splitlines()
    assert first == "distillery recipes NAME, or distillery run NAME --teacher BUNDLE --data TEST_IMAGES"
    assert f"For students: {asked}" in others


def test_methods_lists_all() -> None:
    text = shown(listing.show_methods)
    assert "fast_dfkd" in text
    assert "BatchNorm2d" in text


def test_objectives_lists_all_with_what_they_need() -> None:
    text = shown(listing.show_objectives)
    assert all(row.name in text and row.paper in text for row in OBJECTIVES.values())
    assert all(name in text for name in plan_names())
    assert "layers of both networks" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "fast_dfkd/digit"], "did you mean 'fast_dfkd/digits'"),
        (["run", "ls_gdfd", "--teacher", "t"], "'ls_gdfd' is a folder of recipes: choose one that `distillery recipes ls_gdfd` lists."),
        (["run", "fast_dfkd/digits", "--teacher", "t", "--set", "seed"], "write section.key=value"),
        (
            ["import-teacher", "w", "--architecture", "a", "--shape", "3,32", "--mean", "0", "--std", "1", "--classes", "2", "--out", "o"],
            "--shape",
        ),
        (
            ["import-teacher", "w", "--architecture", "a", "--shape", "1,8,8", "--mean", "x", "--std", "1", "--classes", "2", "--out", "o"],
            "--mean",
        ),
        (
            ["import-teacher", "w", "--architecture", "a", "--shape", "1,8,8", "--mean", "0", "--std", "1", "--classes", "x", "--out", "o"],
            "no file of class names 'x'",
        ),
        (["compile", "--out", f"{__file__}/below"], "test_cli.py/below"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["distillery", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("distillery: ")
    assert len(err.splitlines()) == 1


def test_unknown_option_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["distillery", "run", "--colour"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


@pytest.mark.parametrize(("seconds", "text"), [(4.23, "4.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_duration(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


@pytest.mark.parametrize("name", ["fast_dfkd/digits", "ls_gdfd/cifar10-resnet34-resnet18"])
def test_a_recipe_that_is_shown_is_a_file_of_ones_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(shown(listing.show_recipe, name))
    whole = load_document(name)
    whole.pop("about")
    assert load_document(str(tmp_path / "own.yaml")) == whole
