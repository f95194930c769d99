"""How runs stand, how they are found, and in what two of them differ."""

import os
import platform
from pathlib import Path

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery.ledger.compare import differences, dotted, results
from distillery.ledger.runs import LOCK, RunState, find_run, list_runs
from distillery.storage.locks import lock
from made_up_runs import MadeUp


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "work")


@pytest.mark.parametrize(
    ("state", "standing"), [("", "open"), ("running", "running"), ("stopped", "stopped"), ("failed", "failed"), ("finished", "finished")]
)
def test_standing(state: str, standing: str, made: MadeUp) -> None:
    made.run("one", state)
    (run,) = list_runs(made.store)
    assert (run.standing, run.is_open) == (standing, standing != "finished")
    assert (run.recipe, run.seed) == ("fast_dfkd/digits", 3)


def test_a_runner_that_was_killed_left_a_stopped_run(made: MadeUp) -> None:
    state = RunState.here("running", made.workspace, made.store)
    made.run("one", noted=state)
    assert find_run(made.store, "one").standing == "stopped"
    with lock(made.workspace / LOCK, "a run"):
        assert find_run(made.store, "one").standing == "running"
    assert (state.host, state.process) == (platform.node(), os.getpid())


def test_an_equal_run_that_finished_makes_a_stopped_one_needless(made: MadeUp) -> None:
    made.run("one", "stopped", work="same")
    made.run("two", "finished", work="same")
    made.run("three", "stopped", work="other")
    standing = {run.id: (run.standing, run.successor) for run in list_runs(made.store)}
    assert standing == {"one": ("superseded", "two"), "two": ("finished", ""), "three": ("stopped", "")}


@pytest.mark.parametrize(("versions", "standing"), [({"train_student": "1"}, "superseded"), ({"train_student": "2"}, "stopped")])
def test_other_comments_in_the_code_make_no_other_run_and_other_code_does(versions: dict[str, str], standing: str, made: MadeUp) -> None:
    for name, state, code, steps in (("one", "stopped", "a", {"train_student": "1"}), ("two", "finished", "b", versions)):
        made.run(name, state, sections={"student": {"seed": 3, "code_version": code}}, step_versions=steps)
    assert {run.id: run.standing for run in list_runs(made.store)} == {"one": standing, "two": "finished"}


def test_an_equal_run_of_another_name_makes_a_stopped_one_needless_too(made: MadeUp) -> None:
    made.run("one", "stopped", work="same")
    made.run("two", "finished", work="same", recipe="renamed")
    assert [(run.id, run.recipe, run.successor) for run in list_runs(made.store)] == [
        ("one", "fast_dfkd/digits", "two"),
        ("two", "renamed", ""),
    ]


def test_damaged_records_are_listed_and_hide_no_others(made: MadeUp) -> None:
    made.run("one", "finished")
    made.store.write("runs/two/run.json", b"{")
    made.store.write("runs/three/run.json", made.store.read("runs/one/run.json").replace(b'"version": 3', b'"version": 99'))
    made.store.write("runs/one/evaluation.json", b"[")
    assert {run.id: run.standing for run in list_runs(made.store)} == {"one": "finished", "two": "damaged", "three": "damaged"}
    assert find_run(made.store, "one").to_json("s")["student_top1"] is None


def test_a_run_is_found_by_the_beginning_of_its_id(made: MadeUp) -> None:
    made.run("20261121-aa", began="2026-11-21T09:00:00+00:00")
    made.run("20261121-ab")
    made.run("2026")
    assert find_run(made.store, "20261121-ab").id == "20261121-ab"
    assert find_run(made.store, "2026").id == "2026"
    assert find_run(made.store, "last").id == "20261121-aa"
    with pytest.raises(ConfigError, match="may be any of"):
        find_run(made.store, "20261121-a")
    for name in ("x", ""):
        with pytest.raises(MissingResourceError, match="There is no run"):
            find_run(made.store, name)


def test_numbers_and_places(made: MadeUp) -> None:
    made.run("one", "finished")
    row = find_run(made.store, "one").to_json("s3://b/store")
    assert (row["student_top1"], row["teacher_top1"], row["agreement"], row["seconds"]) == (0.5, 0.99, 0.9, 61.0)
    assert str(row["student"]).startswith("s3://b/store/students/")
    made.run("two", "failed")
    assert find_run(made.store, "two").to_json("s")["message"] == "It is so."


def test_differences_by_dotted_key(made: MadeUp) -> None:
    same = {"synthesis": {"rounds": 3, "config": {"batch": 8}}, "about": {"title": "x"}}
    other = {"synthesis": {"rounds": 4, "config": {"batch": 8, "k": [1, 2]}}, "about": {"title": "y"}}
    made.run("one", "finished", same, environment={"device": "cpu", "threads": 1})
    made.run("two", "finished", other, environment={"device": "cpu", "threads": 2})
    pair = find_run(made.store, "one"), find_run(made.store, "two")
    assert differences(*pair) == {
        "synthesis.rounds": (3, 4),
        "synthesis.config.k": ("(not set)", [1, 2]),
        "run.threads": (1, 2),
    }
    assert differences(pair[0], pair[0]) == {}


def test_dotted_numbers_the_stages_of_a_list() -> None:
    assert dotted({"a": [{"b": 1}, {"b": 2}], "c": {}, "d": [3]}) == {"a.0.b": 1, "a.1.b": 2, "c": {}, "d": [3]}


def test_results_are_those_of_the_evaluation(made: MadeUp) -> None:
    made.run("one", "finished")
    made.run("two", "stopped")
    found = results(find_run(made.store, "one"))
    assert (found["student/top1"], found["agreement"], found["seconds"]) == (0.5, 0.9, 61.0)
    assert results(find_run(made.store, "two")) == {}
