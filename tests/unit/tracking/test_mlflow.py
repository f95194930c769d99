"""The observer on MLflow: one parent a pipeline, one child a step, nothing lost and nothing stalled when it is down."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.tracking import mlflow as module
from distillery.tracking.guard import Guard
from distillery.tracking.observer import MlflowTracker
from distillery.tracking.open import close_parent, open_parent, open_tracker
from distillery.tracking.runs import PARENT, artifact_location

pytestmark = [pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"), pytest.mark.timeout(60)]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a pipeline run, in the environment."""
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    return "run-1"


def all_runs(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("distillery")
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def tracker_on(tmp_path: Path, step: str = "train_student", key: str = "") -> Any:
    return open_tracker(step, tmp_path / "fallback", key)


def no_fallback(tmp_path: Path) -> bool:
    return not (tmp_path / "fallback").exists()


def test_one_parent_and_a_child_for_each_step(client: Any, pipeline: str, tmp_path: Path) -> None:
    parent = open_parent("offline digits", tmp_path / "p", {"recipe": {"rounds": 3}}, {"teacher_sha256": "ab"})
    for step in ("materialize", "train_student"):
        with tracker_on(tmp_path, step, key=f"key of {step}") as tracker:
            assert tracker.parent_id == parent
            assert tracker.run_id not in ("", parent)
    close_parent("FINISHED")
    found = {run.info.run_name: run for run in all_runs(client)}
    assert set(found) == {"offline digits", "materialize", "train_student"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["materialize"].data.tags[PARENT] == parent
    assert found["materialize"].data.tags["distillery/step_key"] == "key of materialize"
    assert found["offline digits"].data.params == {"distillery/recipe.rounds": "3"}
    assert found["offline digits"].data.tags["distillery/teacher_sha256"] == "ab"
    assert {run.data.tags["kfp.pipeline_run_id"] for run in found.values()} == {pipeline}
    assert no_fallback(tmp_path)


def test_a_step_without_a_plan_makes_the_parent_itself(client: Any, pipeline: str, tmp_path: Path) -> None:
    with tracker_on(tmp_path, "materialize") as first, tracker_on(tmp_path, "evaluate") as second:
        assert first.parent_id == second.parent_id != ""


def test_without_a_pipeline_a_step_has_no_parent(client: Any, tmp_path: Path) -> None:
    assert open_parent("x", tmp_path / "p", {}, {}) == ""
    with tracker_on(tmp_path) as tracker:
        assert tracker.parent_id == ""
    assert [run.info.run_name for run in all_runs(client)] == ["train_student"]


def test_metrics_of_every_epoch(client: Any, tmp_path: Path) -> None:
    with tracker_on(tmp_path) as tracker:
        for epoch in range(4):
            tracker.metrics({"loss": 1 / (epoch + 1), "student/top1 (%)": epoch}, step=epoch)
        tracker.metrics({"loss": float("nan")}, step=4)
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history][:4] == [(epoch, 1 / (epoch + 1)) for epoch in range(4)]
    assert len(history) == 5
    assert len(client.get_metric_history(tracker.run_id, "student/top1 ___")) == 4
    assert no_fallback(tmp_path)


def test_a_resumed_step_sends_only_what_the_run_lacks(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [{"loss": 1.0 / step, **({"holdout": 0.5} if step > 2 else {})} for step in range(1, 6)]
    with tracker_on(tmp_path) as tracker:
        for step in (1, 2, 4):
            tracker.metrics(rounds[step - 1], step)
        client.log_metric(tracker.run_id, "loss", 1 / 3, step=3)  # half of a record
        sent: list[tuple[str, int]] = []
        write = tracker._link.client.log_batch
        monkeypatch.setattr(
            tracker._link.client,
            "log_batch",
            lambda run, metrics: (sent.extend((metric.key, metric.step) for metric in metrics), write(run, metrics=metrics)),
        )
        tracker.catch_up(rounds)
        assert sent == [("holdout", 3), ("loss", 5), ("holdout", 5)]
        tracker.catch_up(rounds)
        assert len(sent) == 3
    assert sorted(metric.step for metric in client.get_metric_history(tracker.run_id, "loss")) == [1, 2, 3, 4, 5]
    assert no_fallback(tmp_path)


def test_params_do_not_collide_with_those_of_the_plugin_or_of_a_first_attempt(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = client.create_experiment("kfp")
    parent = client.create_run(experiment).info.run_id
    run_id = client.create_run(experiment, tags={PARENT: parent}).info.run_id
    client.log_param(run_id, "seed", '"3"')  # what the KFP plugin writes: a JSON text
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    for threads in (1, 2):
        with tracker_on(tmp_path) as tracker:
            assert (tracker.run_id, tracker.parent_id) == (run_id, parent)
            tracker.params({"seed": 3, "threads": threads})
    data = client.get_run(run_id).data
    assert data.params == {"seed": '"3"', "distillery/seed": "3", "distillery/threads": "1"}
    assert data.tags["distillery/changed/threads"] == "2"
    assert client.get_run(parent).info.status == "RUNNING"  # the plugin's to end
    assert no_fallback(tmp_path)


def test_the_plugins_parent_is_joined_and_never_ended(client: Any, pipeline: str, tmp_path: Path) -> None:
    experiment = client.create_experiment("distillery")
    plugin = client.create_run(experiment, tags={"kfp.pipeline_run_id": pipeline}).info.run_id
    assert open_parent("mine", tmp_path / "p", {"a": 1}, {}) == plugin
    tracker = MlflowTracker("train_student", tmp_path / "fallback", "", client.tracking_uri)
    assert tracker.parent_id == plugin
    tracker.close("FAILED")
    close_parent("FINISHED")
    assert client.get_run(plugin).info.status == "RUNNING"
    assert client.get_run(plugin).data.params == {"distillery/a": "1"}


def test_more_params_than_one_batch_takes(client: Any, tmp_path: Path) -> None:
    with tracker_on(tmp_path) as tracker:
        tracker.params({f"p{index}": index for index in range(230)} | {"long": "x" * 9000})
        tracker.tags({f"t{index}": index for index in range(130)})
    data = client.get_run(tracker.run_id).data
    assert len(data.params) == 231
    assert len(data.params["distillery/long"]) == 6000
    assert len([name for name in data.tags if name.startswith("distillery/t")]) == 130


def test_artifacts_and_data_sets(client: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    with tracker_on(tmp_path) as tracker:
        tracker.artifact(bundle, "student")
        tracker.image("grids/round 1.png", b"PNG")
        tracker.text("notes.txt", "words")
        tracker.json("x.json", {"path": tmp_path})
        tracker.dataset("set", "s3://bucket/manifest.json", "f" * 64, "training")
    run = client.get_run(tracker.run_id)
    assert {item.path for item in client.list_artifacts(tracker.run_id)} == {"student", "grids", "notes.txt", "x.json"}
    copy = client.download_artifacts(tracker.run_id, "grids/round 1.png", str(tmp_path))
    assert Path(copy).read_bytes() == b"PNG"
    entry = run.inputs.dataset_inputs[0]
    assert (entry.dataset.name, entry.dataset.digest) == ("set", "f" * 36)
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training", "distillery/sha256": "f" * 64}
    assert (tmp_path / "tracking server" / "mlartifacts").is_dir()  # beside the database, not in the current folder
    assert no_fallback(tmp_path)


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("s3://bucket/manifest.json", {"uri": "s3://bucket/manifest.json"}),
        ("a folder/test.npz", {"uri": "a folder/test.npz"}),
        ("https://host/test.npz", {"url": "https://host/test.npz"}),
    ],
)
def test_a_data_set_is_found_again_by_mlflow(client: Any, tmp_path: Path, uri: str, source: dict[str, str]) -> None:
    from mlflow.data import get_source

    with tracker_on(tmp_path) as tracker:
        tracker.dataset("set", uri, "ff", "evaluation")
    (entry,) = client.get_run(tracker.run_id).inputs.dataset_inputs
    assert get_source(entry).to_dict() == source


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("x"), "FAILED"), (SystemExit(143), "KILLED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(0), "FINISHED")],
)
def test_the_status_says_how_the_step_ended(client: Any, pipeline: str, tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tracker_on(tmp_path) as tracker:
        raise error
    assert client.get_run(tracker.run_id).info.status == status
    assert client.get_run(tracker.parent_id).info.status == ("RUNNING" if status == "FINISHED" else status)


@pytest.mark.parametrize("left_as", ["RUNNING", "KILLED", "FAILED"])
def test_a_killed_step_goes_on_in_its_own_run(client: Any, pipeline: str, tmp_path: Path, left_as: str) -> None:
    killed = MlflowTracker("train_student", tmp_path / "fallback", "key-1", client.tracking_uri)
    killed.params({"lr": 0.1})
    killed.metrics({"loss": 2.0}, step=0)
    if left_as != "RUNNING":  # SIGKILL leaves it running
        killed.close(left_as)  # type: ignore[arg-type]
    with tracker_on(tmp_path, key="key-1") as tracker:
        assert tracker.run_id == killed.run_id
        assert {client.get_run(run).info.status for run in (tracker.run_id, tracker.parent_id)} == {"RUNNING"}
        tracker.params({"lr": 0.1})
        tracker.metrics({"loss": 1.0}, step=1)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(tracker.run_id, "loss")] == [0, 1]
    assert not [name for name in run.data.tags if name.startswith("distillery/changed")]
    assert no_fallback(tmp_path)


def test_a_killed_step_is_adopted_by_the_next_pipeline_run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    killed = MlflowTracker("train_student", tmp_path / "fallback", "key-1", client.tracking_uri)
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    with tracker_on(tmp_path, key="key-1") as tracker:
        assert tracker.run_id == killed.run_id
        assert tracker.parent_id != killed.parent_id
    close_parent("FINISHED")
    tags = client.get_run(tracker.run_id).data.tags
    assert (tags[PARENT], tags["kfp.pipeline_run_id"]) == (tracker.parent_id, "run-2")
    assert client.get_run(killed.parent_id).info.status == "KILLED"
    assert not [run for run in all_runs(client) if run.info.status == "RUNNING"]


def test_other_work_gets_another_run(client: Any, pipeline: str, tmp_path: Path) -> None:
    opened = []
    for step, key in (("train_student", "key-1"), ("train_student", "key-2"), ("evaluate", "key-1")):
        opened.append(MlflowTracker(step, tmp_path / "fallback", key, client.tracking_uri).run_id)
    with tracker_on(tmp_path, key="key-1") as tracker:
        pass
    with tracker_on(tmp_path, key="key-1") as again:  # finished: this is a run that found its result
        pass
    assert len({*opened, again.run_id}) == 4
    assert tracker.run_id == opened[0]


def test_an_experiment_of_the_users_choice(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with tracker_on(tmp_path) as tracker:
        pass
    mine = client.get_experiment_by_name("mine").experiment_id
    assert client.get_run(tracker.run_id).info.experiment_id == mine
    assert client.get_experiment_by_name("distillery") is None


def test_a_dead_server_stops_nothing_and_loses_nothing(
    dead_server: str, pipeline: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="distillery")
    assert open_parent("x", tmp_path / "parent", {"a": 1}, {}) == ""
    caplog.clear()
    with tracker_on(tmp_path) as tracker:
        tracker.params({"lr": 0.1})
        for epoch in range(200):
            tracker.metrics({"loss": epoch}, step=epoch)
        tracker.tags({"set": "ff"})
        tracker.image("grid.png", b"PNG")
        tracker.dataset("set", "uri", "ff", "training")
    close_parent("FINISHED")
    folder = tmp_path / "fallback"
    assert tracker.run_id == ""
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(range(200))
    assert json.loads((folder / "params.json").read_text()) == {"distillery/lr": "0.1"}
    assert (folder / "artifacts/grid.png").read_bytes() == b"PNG"
    assert json.loads((tmp_path / "parent/params.json").read_text()) == {"distillery/a": "1"}
    said = [record.getMessage() for record in caplog.records if record.name.startswith("distillery")]
    assert len([line for line in said if "the step goes on" in line]) == 1
    assert len([line for line in said if line.startswith("204 records")]) == 1


def test_a_server_that_dies_and_comes_back(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Guard", lambda name, advice, deadline: Guard(name, advice, deadline, pause=600))
    with tracker_on(tmp_path) as tracker:
        tracker.metrics({"loss": 3.0}, step=0)
        alive = tracker._link.client
        tracker._link.client = None  # every call now raises AttributeError
        tracker.metrics({"loss": 2.0}, step=1)
        tracker._link.client = alive
        tracker.metrics({"loss": 1.5}, step=2)  # left alone
        tracker._guard._open_until = 0.0  # the pause is over
        tracker.metrics({"loss": 1.0}, step=3)
    assert [metric.step for metric in client.get_metric_history(tracker.run_id, "loss")] == [0, 3]
    kept = [json.loads(line)["step"] for line in (tmp_path / "fallback/metrics.jsonl").read_text().splitlines()]
    assert kept == [1, 2]
    assert client.get_run(tracker.run_id).data.tags["distillery/missed_records"] == "2"
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_one_bad_record_costs_only_itself(client: Any, tmp_path: Path) -> None:
    with tracker_on(tmp_path) as tracker:
        client.log_param(tracker.run_id, "distillery/lr", "7")  # someone else's, after we looked
        tracker.params({"lr": 0.1})
        tracker.metrics({"loss": 1.0})
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 1
    assert json.loads((tmp_path / "fallback/params.json").read_text()) == {"distillery/lr": "0.1"}


def test_a_broken_installation_stops_nothing(mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with tracker_on(tmp_path) as tracker:
        tracker.metrics({"loss": 1.0})
    assert (tmp_path / "fallback/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("http://server", None), ("postgresql://h/db", None), ("sqlite:////w/a b/m.db", "file:///w/a%20b/mlartifacts"), ("sqlite://", None)],
)
def test_artifacts_lie_beside_a_sqlite_file(uri: str, expected: str | None) -> None:
    assert artifact_location(uri) == expected


def test_importing_the_package_imports_no_mlflow() -> None:
    import subprocess

    code = "import sys; import distillery.tracking.observer, distillery.tracking.null; assert 'mlflow' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(module.__file__).parents[2])})
