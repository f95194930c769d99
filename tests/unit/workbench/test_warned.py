"""What a step warns of reaches whoever watches the run, also where its finished work is taken, and nothing else does."""

import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from distillery.provenance import code_version
from distillery.recipes.sections import Section
from distillery.step_table import Pipeline
from distillery.workbench.bench import reporting, workbench
from distillery.workbench.warned import keeping_warnings, read_warnings, warned_by
from distillery_kfp.pipelines.runner.display import Display

WORK, MACHINE = logging.getLogger("distillery.engine.terms"), logging.getLogger("distillery.tracking.guard")
SECTION = Section(seed=1, code_version=code_version(), teacher_sha256="t", precision="float32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"DISTILLERY_WORKDIR": tmp_path, "DISTILLERY_STORE": tmp_path / "store", "DISTILLERY_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("DISTILLERY_FOLDER_STORE", "1")
    return tmp_path / "warnings"


def shown(folder: Path, *steps: str, ended: bool = True) -> str:
    console = Console(width=60, record=True, file=io.StringIO())
    with Display(console, Pipeline("warning", steps), folder.parent / "progress", folder) as display:
        for step in steps:
            display.started(step)
            if ended:
                display.ended(step, succeeded=True)
    return console.export_text()


def test_warnings_are_kept_once_each_as_they_come(folder: Path) -> None:
    with reporting("materialize"):
        WORK.warning("The set is short of %d\n  images.", 3)
        assert read_warnings(folder, "materialize") == ("The set is short of 3 images.",), "a killed step has told them too"
        WORK.info("not this")
        logging.getLogger("somebody.else").warning("nor this")
        WORK.warning("The set is short of 3 images.")
        MACHINE.error("MLflow is gone.")
    assert read_warnings(folder, "materialize") == ("The set is short of 3 images.", "MLflow is gone.")
    WORK.warning("after the end")
    assert len(read_warnings(folder, "materialize")) == 2


def test_what_two_steps_say_of_the_same_data_is_told_once(folder: Path) -> None:
    for step in ("plan", "evaluate"):
        with reporting(step):
            WORK.warning("3 files were left out.")
    with reporting("evaluate"):
        WORK.warning("3 files were left out.")
        WORK.warning("Something else.")
    text = shown(folder, "plan", "evaluate")
    assert [line.split(": ", 1)[1] for line in text.splitlines() if line.startswith("warning")] == [
        "3 files were left out.",
        "Something else.",
    ]


def test_a_nested_block_keeps_them_in_one_list_and_another_run_begins_anew(folder: Path) -> None:
    with reporting("plan"):
        WORK.warning("first")
        with reporting("plan"):
            WORK.warning("second")
        WORK.warning("third")
    assert read_warnings(folder, "plan") == ("first", "second", "third")
    with keeping_warnings("plan"):
        assert read_warnings(folder, "plan") == ()
    assert warned_by("plan") is None


def test_after_a_failure_they_are_still_there(folder: Path) -> None:
    @reporting("plan")
    def fail() -> None:
        WORK.warning("look out")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_warnings(folder, "plan") == ("look out",)
    assert warned_by("plan") is None


def test_finished_work_warns_again_of_itself_and_not_of_a_machine_of_long_ago(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("single")
    with workbench("materialize", SECTION, {}) as bench:
        WORK.warning("The images look alike.")
        MACHINE.warning("MLflow is gone.")
        bench.finish({"set": tmp_path / "one"}, {"images": 3.0})
    for _ in range(2):
        with workbench("materialize", SECTION, {}) as bench:
            assert bench.finished({"set": tmp_path / "two"}) == {"images": 3.0}
        assert read_warnings(folder, "materialize") == ("The images look alike.",)


@pytest.mark.parametrize("ended", [True, False])
def test_they_are_shown_when_the_run_ends_whichever_way(folder: Path, ended: bool) -> None:
    sentence = "Health of the set: The [images] look alike to the teacher, which is a long sentence on a narrow screen."
    for step, words in (("plan", "The plan is odd."), ("materialize", sentence)):
        with reporting(step):
            WORK.warning(words)
    with reporting("evaluate"):
        pass
    lines = shown(folder, "plan", "materialize", "evaluate", ended=ended).splitlines()
    assert lines[-2:] == ["warning  1/3 plan the run: The plan is odd.", f"warning  2/3 draw the synthetic set: {sentence}"]
    assert len(lines) == (5 if ended else 2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"warnings": 3}', b'{"step": "plan"}'])
def test_a_damaged_file_is_no_warning(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "plan.json").write_bytes(content)
    assert read_warnings(folder, "plan") == ()
    assert shown(folder, "plan").count("warning") == 0


def test_a_folder_that_cannot_be_written_costs_nothing(folder: Path) -> None:
    folder.write_text("a file")
    with reporting("plan"):
        WORK.warning("look out")
    assert read_warnings(folder, "plan") == ()


def test_the_file_is_plain(folder: Path) -> None:
    with reporting("plan"):
        WORK.warning("look out")
    assert json.loads((folder / "plan.json").read_bytes()) == {"step": "plan", "warnings": ["look out"]}
