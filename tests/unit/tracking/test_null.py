"""The observer without a server keeps everything in files."""

import json
import sys
from pathlib import Path

import pytest

from distillery.tracking.null import NullTracker
from distillery.tracking.open import close_parent, open_parent, open_tracker
from distillery.tracking.protocol import Candidate, RegistrationConfig


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_opened_where_no_uri_is_set(tmp_path: Path) -> None:
    with open_tracker("train_student", tmp_path / "t", "key") as tracker:
        assert isinstance(tracker, NullTracker)
        assert (tracker.run_id, tracker.parent_id) == ("", "")
    assert not (tmp_path / "t").exists()  # nothing was recorded


def test_params_are_flat_prefixed_and_merged(tmp_path: Path) -> None:
    tracker = NullTracker(tmp_path)
    tracker.params({"student": {"optimizer": {"lr": 0.1}, "stages": [1, 2]}, "recipe": "a/b", "empty": {}})
    tracker.params({"seed": 3})
    assert json.loads((tmp_path / "params.json").read_text()) == {
        "distillery/student.optimizer.lr": "0.1",
        "distillery/student.stages": "[1, 2]",
        "distillery/recipe": "a/b",
        "distillery/empty": "{}",
        "distillery/seed": "3",
    }


def test_metrics_append_a_line_each_and_survive_nan(tmp_path: Path) -> None:
    NullTracker(tmp_path).metrics({"loss": 1.5}, step=1)
    NullTracker(tmp_path).metrics({"loss": float("nan"), "student/top1": 0.5}, step=2)
    assert lines(tmp_path) == [{"step": 1, "loss": 1.5}, {"step": 2, "loss": "nan", "student/top1": 0.5}]


def test_catching_up_appends_only_what_is_missing(tmp_path: Path) -> None:
    tracker = NullTracker(tmp_path)
    tracker.metrics({"loss": 3.0}, step=1)
    tracker.metrics({"loss": 1.0}, step=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo\n')  # a writer killed within a line
    NullTracker(tmp_path).catch_up([{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}, {"loss": 0.5}, {}])
    known = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    assert known == [{"step": step, "loss": loss} for step, loss in ((1, 3.0), (3, 1.0), (2, 2.0), (4, 0.5))]
    NullTracker(tmp_path / "new").catch_up([{"loss": 3.0}])
    assert lines(tmp_path / "new") == [{"step": 1, "loss": 3.0}]


def test_artifacts_are_copied(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    tracker = NullTracker(tmp_path / "t")
    tracker.artifact(bundle, "student")
    tracker.artifact(bundle / "bundle.json")
    tracker.image("grids/round.png", b"PNG")
    tracker.text("notes.txt", "words")
    tracker.json("deep/x.json", {"path": Path("a")})
    tracker.dataset("set", "file:///s", "ff", "training")
    found = {path.relative_to(tmp_path / "t").as_posix() for path in (tmp_path / "t").rglob("*") if path.is_file()}
    names = {"student/bundle.json", "bundle.json", "grids/round.png", "notes.txt", "deep/x.json"}
    assert found == {f"artifacts/{name}" for name in names} | {"datasets.json"}
    assert (tmp_path / "t/artifacts/grids/round.png").read_bytes() == b"PNG"


@pytest.mark.parametrize("name", ["../out", "/etc/out", ""])
def test_a_name_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        NullTracker(tmp_path).text(name, "x")


def test_an_unwritable_folder_warns_once_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tracker = NullTracker(tmp_path / "file" / "below")
    tracker.metrics({"loss": 1.0})
    tracker.params({"a": 1})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_registering_says_that_nothing_was_registered(tmp_path: Path) -> None:
    answer = NullTracker(tmp_path).register(tmp_path, RegistrationConfig(), Candidate(metric="agreement", value=0.5))
    assert answer.model_version == ""
    assert "nothing was registered" in answer.reason


def test_a_parent_without_a_server_is_files(tmp_path: Path) -> None:
    assert open_parent("run", tmp_path, {"recipe": {"a": 1}}, {"teacher_sha256": "ab"}) == ""
    close_parent("FINISHED")
    assert json.loads((tmp_path / "params.json").read_text()) == {"distillery/recipe.a": "1"}
    assert json.loads((tmp_path / "tags.json").read_text()) == {"distillery/name": "run", "distillery/teacher_sha256": "ab"}


def test_a_step_that_finds_no_mlflow_says_what_to_install_and_waits_for_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with caplog.at_level("WARNING"), open_tracker("materialize", tmp_path) as tracker:
        tracker.metrics({"x": 1.0}, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "MLFLOW_TRACKING_URI = 'http://127.0.0.1:1' needs mlflow, which is not installed: pip install 'distillery[mlflow]'. "
        f"The step goes on and its records go to {tmp_path}."
    ]
    assert any(tmp_path.rglob("*.json*"))
