"""What a run's observers say of it, and the true end for a record that stands as open; MLflow's side is for the integration tests."""

from pathlib import Path
from uuid import uuid4

import pytest

from distillery.ledger.runs import RunState, find_run, list_runs
from distillery_kfp.pipelines.registrar.closing import Closed, close_ended, list_cluster_runs
from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.submitting import Submission, submit
from kubeflow_api import FakeKubeflow
from kubeflow_places import PARAMETERS, asked
from made_up_runs import MadeUp

WANTED = Submission("mine", "distillery", PARAMETERS)
ENDED = "2026-01-05T03:00:00Z"


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path)


def begun(fake: FakeKubeflow, package: PipelinePackage, made: MadeUp, state: str, **more: object) -> str:
    """A run at Kubeflow in a state, which planned itself into the store."""
    run = submit(asked(fake), package, "1.4.0", WANTED)["run_id"]
    fake.runs[run].update(state=state, **({"finished_at": ENDED} if state not in ("RUNNING", "PENDING") else {}), **more)
    made.run(run)
    return str(run)


@pytest.mark.parametrize(("state", "standing"), [("FAILED", "failed"), ("CANCELED", "stopped")])
def test_a_record_gets_the_true_end(fake: FakeKubeflow, package: PipelinePackage, made: MadeUp, state: str, standing: str) -> None:
    run = begun(fake, package, made, state, error={"code": 2, "message": "OOMKilled"})
    assert find_run(made.store, run).standing == "open"
    assert close_ended(asked(fake), made.store, "") == [Closed(run, state, ("record",))]
    found = find_run(made.store, run)
    assert found.standing == standing
    assert found.state is not None
    assert found.state.at == ENDED
    assert found.state.message == f"Kubeflow ended it as {state}: OOMKilled."
    assert found.parameters == {"teacher_uri": "teachers/one", "run_salt": ""}
    assert close_ended(asked(fake), made.store, "") == []


def test_what_works_or_is_not_kubeflows_is_left_alone(fake: FakeKubeflow, package: PipelinePackage, made: MadeUp) -> None:
    begun(fake, package, made, "RUNNING")
    finished = begun(fake, package, made, "SUCCEEDED")
    elsewhere = str(uuid4())
    made.run(elsewhere)
    made.run("local-20260105T030000.000Z")
    made.run(str(uuid4()), noted=RunState("failed", host="a", at="", message="m"))
    before = {run.id: run.standing for run in list_runs(made.store)}
    assert sorted(close_ended(asked(fake), made.store, ""), key=lambda done: done.state) == [
        Closed(elsewhere, ""),
        Closed(finished, "SUCCEEDED"),
    ]
    assert {run.id: run.standing for run in list_runs(made.store)} == before


def test_a_run_is_listed_with_what_each_says(fake: FakeKubeflow, package: PipelinePackage, made: MadeUp) -> None:
    runs = [begun(fake, package, made, state) for state in ("FAILED", "RUNNING", "SUCCEEDED")]
    found = list_cluster_runs(asked(fake), "distillery", 2, made.store, "")
    assert len(found) == 2
    assert found[0].run == runs[2]
    listed = {run.run: run for run in list_cluster_runs(asked(fake), "distillery", 20, made.store, "")}
    assert [(listed[run].state, listed[run].record, listed[run].ended) for run in runs] == [
        ("FAILED", "open", ENDED),
        ("RUNNING", "open", ""),
        ("SUCCEEDED", "open", ENDED),
    ]
    assert listed[runs[0]].page == f"http://kubeflow/#/runs/details/{runs[0]}"
    assert [run.record for run in list_cluster_runs(asked(fake), "distillery", 20, None, "")] == ["", "", ""]
    assert list_cluster_runs(asked(fake), "another", 20, made.store, "") == []


def test_a_moment_that_a_server_never_had_is_none(fake: FakeKubeflow, package: PipelinePackage, made: MadeUp) -> None:
    run = begun(fake, package, made, "RUNNING")
    fake.runs[run]["finished_at"] = "1970-01-01T00:00:00Z"
    assert list_cluster_runs(asked(fake), "distillery", 20, None, "")[0].ended == ""
