"""runs, compare, prune, resume and --dry-run as a user calls them, on stores that nobody filled by working."""

import json
import logging
import sys
from pathlib import Path

import pytest
import yaml

from distillery.estimate import profiling
from distillery.ledger.runs import find_run
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance, code_version
from distillery.recipes.loader import load_recipe
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.storage import FolderStore
from distillery.workbench.keys import step_versions
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.cli.commands import dry_run
from distillery_kfp.pipelines.runner import forkserver
from distillery_kfp.pipelines.runner.resume import request_of, workspace_of
from fakes import TINY, tiny_teacher
from made_up_runs import MadeUp, digest
from short_recipes import SHORT


class Desk(MadeUp):
    """A folder store with two runs, and a way to call the command."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder / "work", FolderStore(folder / "store"))
        self.folder, self._patch, self._capsys = folder, monkeypatch, capsys
        self.run("first", "finished", {"synthesis": {"rounds": 3}})
        self.run("second", "stopped", {"synthesis": {"rounds": 4}})

    def call(self, *words: object, code: int = 0) -> tuple[str, str]:
        self._patch.setattr(sys, "argv", ["distillery", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert int(end.value.code or 0) == code
        out, err = self._capsys.readouterr()
        return out, err


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, monkeypatch, capsys)


def test_runs_lists_what_ran(desk: Desk) -> None:
    out, _ = desk.call("runs", "--store", desk.store.uri)
    first, second = (next(line.split() for line in out.splitlines() if line.startswith(name)) for name in ("first", "second"))
    assert first[1:7] == ["fast_dfkd/digits", "3", "finished", "50.00%", "99.00%", "90.00%"]
    assert second[3] == "stopped"
    rows = json.loads(desk.call("runs", "--store", desk.store.uri, "--json")[0])
    assert [(row["run"], row["state"], row["student_top1"]) for row in rows] == [("first", "finished", 0.5), ("second", "stopped", None)]


def test_runs_shows_one_whole(desk: Desk) -> None:
    out, _ = desk.call("runs", "fir", "--store", desk.store.uri)
    assert f"student     {desk.store.uri}/students/{digest('first')}" in out
    assert "1 min 01 s" in out
    assert json.loads(desk.call("runs", "second", "--store", desk.store.uri, "--json")[0])["message"] == "It is so."


def test_runs_of_one_recipe_are_told_apart_by_their_students_plan(desk: Desk) -> None:
    desk.run("third", "finished", recipe="students/digits-kd", parameters={"student_method": "fitnets"})
    desk.run("fourth", "finished", recipe="students/digits-kd", parameters={"student_method": ""})
    lines = desk.call("runs", "--store", desk.store.uri)[0].splitlines()
    assert next(line for line in lines if line.startswith("third")).split()[1:3] == ["students/digits-kd,", "fitnets"]
    assert next(line for line in lines if line.startswith("fourth")).split()[1:3] == ["students/digits-kd", "3"]
    assert "student by  fitnets" in desk.call("runs", "third", "--store", desk.store.uri)[0]
    assert "student by" not in desk.call("runs", "fourth", "--store", desk.store.uri)[0]


def test_runs_of_an_empty_or_absent_store(desk: Desk) -> None:
    (desk.folder / "empty").mkdir()
    assert "Nothing ran" in desk.call("runs", "--store", desk.folder / "empty")[0]
    _, err = desk.call("runs", "--store", desk.folder / "absent", code=1)
    assert len(err.splitlines()) == 1
    assert not (desk.folder / "absent").exists()


def test_compare_shows_both(desk: Desk) -> None:
    desk.run("third", "finished", {"synthesis": {"rounds": 3}}, seconds=60.0)
    out, _ = desk.call("compare", "first", "second", "--store", desk.store.uri)
    assert next(line.split() for line in out.splitlines() if "synthesis.rounds" in line) == ["synthesis.rounds", "3", "4"]
    assert "50.00%" in out
    found = json.loads(desk.call("compare", "first", "third", "--store", desk.store.uri, "--json")[0])
    assert found["config"] == {}
    assert [row["seconds"] for row in found["results"]] == [61.0, 60.0]
    assert "Configuration: what differs: nothing." in desk.call("compare", "first", "third", "--store", desk.store.uri)[0]


def test_prune_shows_before_it_deletes(desk: Desk) -> None:
    place = desk.unfinished("train_student", "k")
    out, _ = desk.call("prune", "--store", desk.store.uri, "--workdir", desk.workspace)
    assert place in out
    assert "no open run works at it" in out
    assert "7 bytes in 1 place; give --yes" in out
    assert desk.store.exists(f"{place}/latest.json")
    found = json.loads(desk.call("prune", "--store", desk.store.uri, "--workdir", desk.workspace, "--yes", "--json")[0])
    assert [item["place"] for item in found["dropped"]] == [place]
    assert desk.store.list("checkpoints") == []
    assert "Nothing to drop" in desk.call("prune", "--store", desk.store.uri)[0]


def test_prune_says_whose_silence_keeps_everything(desk: Desk) -> None:
    desk.run("third")
    desk.unfinished("train_student", "k")
    out, err = desk.call("prune", "--store", desk.store.uri, "--yes")
    assert "Nothing to drop" in out
    assert "third" in err
    assert desk.call("prune", "--store", desk.store.uri, "--forget", "third", "--yes")[0].count("given up") == 1
    assert desk.store.list("checkpoints") == []


@pytest.mark.parametrize(
    ("state", "said"), [("finished", "is finished, so nothing is left to do"), ("running", "is worked at by process 1 on elsewhere")]
)
def test_resume_refuses_what_needs_none(state: str, said: str, desk: Desk) -> None:
    desk.run("third", state)
    _, err = desk.call("resume", "third", "--store", desk.store.uri, code=1)
    assert said in err
    assert len(err.splitlines()) == 1


def planned(desk: Desk, source: dict[str, str], overrides: dict[str, object], **more: object) -> None:
    config = load_recipe(next(iter(source.values())), overrides).to_json()
    parameters = {**source, "run_overrides": overrides, "run_seed": 3, "run_salt": "x", "teacher_uri": "teachers/one", "eval_data_uri": "d"}
    environment = {"device": "cpu", "threads": 2}
    sections = {"statistics": {"recipe": "own", "seed": 3}}
    desk.run("third", "stopped", config, parameters=parameters, environment=environment, sections=sections, **more)


def test_a_run_is_asked_for_again_as_it_was(desk: Desk) -> None:
    planned(desk, {"run_recipe": "fast_dfkd/digits"}, {"synthesis.rounds": 40})
    request = request_of(find_run(desk.store, "third"), desk.store.uri, desk.workspace, {"data": "moved", "start": ""})
    assert (request.recipe, request.overrides, request.seed, request.salt) == ("fast_dfkd/digits", {"synthesis.rounds": 40}, 3, "x")
    assert (request.teacher, request.teacher_sha256, request.data) == ("teachers/one", digest("teacher"), "moved")
    assert (request.device, request.threads, request.run_id) == ("cpu", 2, "third")
    assert request.arguments()["teacher_sha256"] == digest("teacher")
    desk.workspace.mkdir()
    assert workspace_of(find_run(desk.store, "third"), desk.store, desk.folder) == desk.workspace


def test_all_that_a_run_was_given_may_lie_elsewhere_now(desk: Desk) -> None:
    planned(desk, {"run_recipe": "fast_dfkd/digits"}, {})
    asked = {}
    command = ["resume", "third", "--store", desk.store.uri, "--teacher", "t", "--data", "d", "--start", "s", "--ood", "o"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillery_kfp.pipelines.cli.running.carry_out", lambda request: asked.update(vars(request)))
        desk.call(*command)
    assert {name: asked[name] for name in ("teacher", "data", "start", "ood")} == {"teacher": "t", "data": "d", "start": "s", "ood": "o"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"train_generator": "x"}, ""),  # no step of this run
        ({"extract_statistics": "x"}, "what it has of extract_statistics is done again"),
        ({"torch": "0.1"}, "what it has of extract_statistics is done again"),
    ],
)
def test_resume_says_which_steps_other_code_does_again(
    change: dict[str, str], said: str, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    versions = {**step_versions(), **change}  # the record's code_version is another in any case
    planned(desk, {"run_recipe": "fast_dfkd/digits"}, {}, step_versions=versions)
    request_of(find_run(desk.store, "third"), desk.store.uri, desk.workspace)
    assert ("planned by other code" in caplog.text) == bool(said)
    assert said in caplog.text


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_recipe_that_changed_is_taken_from_the_record(change: str, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    own = desk.folder / "own.yaml"
    own.write_text("extends: ls_gdfd/digits\nset: {size: 50}\nsynthesis: {config: {rate: 1.0e-05}}\n")
    planned(desk, {"run_recipe_uri": str(own)}, {"set.holdout": 0.1})
    config = find_run(desk.store, "third").config
    own.write_text("extends: ls_gdfd/digits\n")
    if change == "gone":
        own.unlink()
    with caplog.at_level(logging.WARNING):
        request = request_of(find_run(desk.store, "third"), desk.store.uri, desk.workspace)
    assert "taken from its record" in caplog.text
    assert (Path(request.recipe).name, request.overrides) == ("own.yaml", {})
    assert load_recipe(request.recipe).to_json() == config
    assert (config["set"]["size"], config["set"]["holdout"]) == (50, 0.1)


def test_a_record_with_a_recipe_of_other_days_is_refused_and_stays_as_it_is(desk: Desk) -> None:
    planned(desk, {"run_recipe": "fast_dfkd/digits"}, {})
    config = find_run(desk.store, "third").config
    config["synthesis"]["student_steps_per_round"] = config["synthesis"].pop("student_steps_per_turn")
    desk.run("third", "stopped", config, parameters={"run_recipe": "fast_dfkd/digits", "teacher_uri": "teachers/one"})
    before = desk.store.read("runs/third/run.json")
    _, err = desk.call("resume", "third", "--store", desk.store.uri, "--workdir", desk.workspace, code=1)
    assert "Run third was planned by a Distillery whose recipes were written otherwise" in err
    assert "is called student_steps_per_turn now" in err
    assert len(err.splitlines()) == 1
    assert desk.store.read("runs/third/run.json") == before
    assert not desk.workspace.exists()


def test_a_dry_run_says_what_a_run_would_cost_and_writes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_start", lambda: (1.0, 1000))
    monkeypatch.chdir(desk.folder)
    save_classifier(desk.folder / "teacher", tiny_teacher(steps=1), TINY, Provenance(code_version=code_version()))
    small = {"expects": {"height": 8, "width": 8, "classes": 4}, "synthesis": {"rounds": 11, "config": {"batch": 8, "steps": 1}}}
    (desk.folder / "own.yaml").write_text(yaml.safe_dump({"extends": "fast_dfkd/digits", **small}))
    before = sorted(desk.folder.rglob("*"))
    out, _ = desk.call("run", "own.yaml", "--teacher", "teacher", "--store", "new", "--workdir", "elsewhere", "--dry-run", "--threads", "1")
    assert sorted(desk.folder.rglob("*")) == before
    resolved = yaml.safe_load(out.partition("\n\n")[2].partition("\n\nEstimated")[0])
    assert resolved["synthesis"]["rounds"] == 11
    assert "images     88 synthetic" in out
    assert "student    60 optimizer steps" in out
    assert "The rest are estimates" in out
    _, err = desk.call("run", "own.yaml", "--teacher", "absent", "--dry-run", code=1)
    assert len(err.splitlines()) == 1


def test_a_dry_run_names_the_moments_that_it_is_given_and_what_it_has_too_little_of(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_start", lambda: (1.0, 1000))
    monkeypatch.setattr(FolderStore, "free_space", lambda store: 1)
    monkeypatch.chdir(desk.folder)
    teacher = tiny_teacher(steps=1)
    sha256 = save_classifier(desk.folder / "teacher", teacher, TINY, Provenance(code_version=code_version()))
    save_moments(desk.folder / "own.safetensors", global_moments(teacher, sha256), Provenance(code_version=code_version()))
    small = {"expects": {"height": 8, "width": 8, "classes": 4}, **SHORT["deep_inversion/digits"]}
    sets = [word for key, value in small.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words = ["run", "deep_inversion/digits", "--teacher", "teacher", "--store", "new", "--workdir", "elsewhere", "--dry-run", *sets]
    out, _ = desk.call(*words)
    assert "statistics: {kind: global}" in out
    assert "\nmoments " not in out
    out, _ = desk.call(*words, "--statistics", "own.safetensors")
    assert "statistics:" not in out
    assert f"\nmoments    of the teacher, from {desk.folder / 'own.safetensors'}\n" in out
    assert "1 bytes are free at " in out.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(("available", "starts"), [(True, 1), (False, 5)])
def test_imports_are_paid_once_where_steps_are_forked(available: bool, starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "AVAILABLE", available)
    assert dry_run.starts_of("online_distillation") == starts
