"""Progress: a file for a watcher, a log line an epoch, and no harm where the folder cannot be written."""

import json
import logging
from pathlib import Path

import pytest

from distillery.engine.progress import Progress


def test_an_epoch_is_a_file_and_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress(tmp_path / "progress", "train_student") as progress:
        progress.write("student: epoch", 3, 10, {"student/kd": 0.25})
    assert json.loads((tmp_path / "progress" / "train_student.json").read_text()) == {
        "step": "train_student",
        "stage": "student: epoch",
        "done": 3,
        "total": 10,
        "numbers": {"student/kd": 0.25},
    }
    assert "student: epoch 3/10  student/kd 0.25" in caplog.text
    assert [path.name for path in (tmp_path / "progress").iterdir()] == ["train_student.json"]


def test_ticks_are_quiet_and_rare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(tmp_path, "step")
    with caplog.at_level(logging.INFO):
        for done in range(100):
            progress.tick("images", done, 100)
    assert json.loads((tmp_path / "step.json").read_text())["done"] < 99
    assert not caplog.text


def test_an_unwritable_folder_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Progress(tmp_path / "file", "step").write("stage", 1, 2)
