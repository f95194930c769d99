"""MLflow beside Kubeflow's own plugin, in every combination: no parameter collides, and no run stands as running that is over.

MLflow is a real server over sqlite. The plugin's writes are made as Kubeflow 2.17 makes them: a run for the pipeline's and one below it for
each task, which with injection becomes ours, and after the task one batch of its inputs as parameters, JSON texts, and its metrics.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from distillery.step_table import PIPELINES
from distillery.tracking.ends import find_open
from distillery.tracking.observer import MlflowTracker
from distillery.tracking.open import close_parent, open_parent, open_tracker
from distillery.tracking.protocol import tracking_uri
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.registrar.closing import Closed, close_ended, list_cluster_runs
from distillery_kfp.pipelines.registrar.package import read_package
from distillery_kfp.pipelines.registrar.schedules import PLUGINS, check_plugins
from distillery_kfp.pipelines.registrar.submitting import Submission, submit
from kubeflow_api import FakeKubeflow
from kubeflow_places import PARAMETERS, asked, packed
from made_up_runs import MadeUp
from mlflow_servers import MlflowServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")]
GOLDEN = Path(__file__).parents[1] / "pipelines" / "golden" / "online_distillation.yaml"
PIPELINE = "online_distillation"
ENDED = "2026-01-05T03:00:00Z"
ENDED_MS = 1767582000000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow-sqlite")
    found = MlflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), {"AWS_ENDPOINT_URL_S3": ""})
    yield found
    found.stop()


@pytest.fixture(scope="module")
def inputs() -> dict[str, list[str]]:
    """Names of the parameters that Kubeflow hands each step, which the plugin writes."""
    compiled = Compiled.of(PIPELINE, "", *yaml.load_all(GOLDEN.read_text(), Loader=yaml.CSafeLoader))
    found = {compiled.step(task): compiled.spec["components"][task["componentRef"]["name"]] for _, _, task in compiled.executed()}
    return {step: list(component.get("inputDefinitions", {}).get("parameters", {})) for step, component in found.items()}


@dataclass
class Cluster:
    """A cluster with an MLflow, on which nothing runs but what tests say.

    Attributes:
        uri: of MLflow.
        client: of MLflow, to write as the plugin does and to look.
        fake: Kubeflow's API.
        made: our store.
        experiment: of MLflow, of this test alone.
        plugin: whether the plugin is on.
        inject: whether it hands its runs to our steps.
        ours: whether our steps know MLflow by themselves.
    """

    uri: str
    client: Any
    fake: FakeKubeflow
    made: MadeUp
    patch: pytest.MonkeyPatch
    experiment: str
    inputs: Mapping[str, list[str]]
    plugin: bool = False
    inject: bool = False
    ours: bool = True
    folder: Path = field(default_factory=Path)

    def begin(self) -> "ClusterTask":
        """Begin a run, as Kubeflow and its plugin do."""
        package = read_package(packed(self.folder / "package"))
        run = submit(asked(self.fake), package, "1.4.0", Submission("mine", "distillery", PARAMETERS))["run_id"]
        self.made.run(run)
        parent = ""
        if self.plugin:
            tags = {"kfp.pipeline_run_id": run, "kfp.pipeline_run_url": "u", "kfp.pipeline_id": "p", "kfp.pipeline_version_id": "v"}
            parent = self.client.create_run(self.experiment, run_name="mine", tags=tags).info.run_id
        return ClusterTask(self, run, parent)

    def end(self, run: str, state: str) -> None:
        """Kubeflow is done with a run."""
        self.fake.runs[run].update(state=state, finished_at=ENDED)

    def close(self) -> list[Closed]:
        """`cluster-runs --close` in a job of its own."""
        with self.patch.context() as patch:
            patch.delenv("KFP_RUN_ID", raising=False)
            return close_ended(asked(self.fake), self.made.store, self.uri)

    def statuses(self, run: str) -> dict[str, str]:
        """Status of each of a run's runs in MLflow, its parents as "parent"."""
        found = self.client.search_runs([self.experiment], f"tags.`kfp.pipeline_run_id` = '{run}'")
        parents = [row for row in found if "mlflow.parentRunId" not in row.data.tags]
        below = [r for p in parents for r in self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{p.info.run_id}'")]
        return {row.info.run_name: row.info.status for row in below} | ({"parent": parents[0].info.status} if parents else {})


@dataclass
class ClusterTask:
    """A run that works."""

    cluster: Cluster
    run: str
    parent: str

    def step(self, step: str, end: str = "ends") -> None:
        """A step's task: it `ends`, `fails`, or is `killed` before it can tell anybody."""
        cluster, nested = self.cluster, ""
        names = {"KFP_RUN_ID": self.run, **({"MLFLOW_TRACKING_URI": cluster.uri} if cluster.ours else {})}
        if self.parent:
            below = {"mlflow.parentRunId": self.parent}
            nested = cluster.client.create_run(cluster.experiment, run_name=step, tags=below).info.run_id
            if cluster.inject:
                names |= {"MLFLOW_RUN_ID": nested, "MLFLOW_EXPERIMENT_ID": cluster.experiment, "MLFLOW_TRACKING_URI": cluster.uri}
        with cluster.patch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            self._work(step, end)
        if nested and end != "killed":
            self._told_by_the_plugin(step, nested, "FINISHED" if end == "ends" else "FAILED")

    def _work(self, step: str, end: str) -> None:
        fallback = self.cluster.folder / "fallback"
        values = {name: f"value of {name}" for name in self.cluster.inputs[step]}
        if step == "plan":  # it has no run of its own
            open_parent("a run", fallback, {"recipe": values, "run": 3}, {"teacher_sha256": "ab"})
            return
        key, said = f"{self.run} {step}", {"section": values, **values}
        if end == "killed":  # so that nothing closes it, whatever is collected when
            if tracking_uri():
                MlflowTracker(step, fallback, key, tracking_uri()).params(said)
            return
        with suppress(RuntimeError), open_tracker(step, fallback, key) as tracker:
            tracker.params(said)
            tracker.metrics({"loss": 0.5}, 1)
            if end == "fails":
                raise RuntimeError("the step's own")
        if end == "ends" and step == "register":
            close_parent("FINISHED")

    def _told_by_the_plugin(self, step: str, nested: str, status: str) -> None:
        from mlflow.entities import Metric, Param

        params = [Param(name, json.dumps(f"value of {name}")) for name in self.cluster.inputs[step]]
        self.cluster.client.log_batch(nested, params=params, metrics=[Metric("top1", 0.9, 0, 0)])
        self.cluster.client.set_terminated(nested, status)
        found = self.cluster.client.get_run(nested).data
        assert found.metrics["top1"] == 0.9
        assert {name: found.params[name] for name in self.cluster.inputs[step]} == {param.key: param.value for param in params}


@pytest.fixture
def cluster(server: MlflowServer, inputs: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name := f"experiment-{uuid4().hex}")
    client = MlflowClient(tracking_uri=server.uri)
    fake = FakeKubeflow()
    yield Cluster(server.uri, client, fake, MadeUp(tmp_path), monkeypatch, client.create_experiment(name), inputs, folder=tmp_path)
    assert fake.violations == []


STEPS = PIPELINES[PIPELINE].steps


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "not ours"])
@pytest.mark.parametrize(
    ("plugin", "inject", "said"),
    [(True, True, PLUGINS), (True, False, PLUGINS), (False, False, {"mlflow": {"disabled": True}}), (False, False, PLUGINS)],
    ids=["on and injected", "on", "off", "absent"],
)
def test_nothing_collides_and_everything_ends(
    cluster: Cluster, plugin: bool, inject: bool, said: dict[str, dict[str, Any]], ours: bool
) -> None:
    assert check_plugins(said) == said
    cluster.plugin, cluster.inject, cluster.ours = plugin, inject, ours
    runs = {}
    for how, state in (("ends", "SUCCEEDED"), ("fails", "FAILED"), ("killed", "CANCELED")):
        run = cluster.begin()
        run.step("plan")
        run.step("distill_online", how)
        if how == "ends":
            run.step("register")
        cluster.end(run.run, state)
        runs[run.run] = {"ends": "FINISHED", "fails": "FAILED", "killed": "KILLED"}[how]
    observed = plugin or ours
    cluster.close()
    for run_id, status in runs.items():
        statuses = cluster.statuses(run_id)
        assert statuses.get("parent", "") == (status if observed else "")
        assert set(statuses.values()) <= {status, "FINISHED"}
    assert find_open(cluster.client) == {}
    assert {run.run: run.mlflow for run in list_cluster_runs(asked(cluster.fake), "distillery", 9, cluster.made.store, cluster.uri)} == {
        run_id: status if observed else "" for run_id, status in runs.items()
    }
    assert [done for done in cluster.close() if done.told] == []


@pytest.mark.parametrize("step", STEPS)
def test_whichever_step_fails_or_is_killed_the_parent_ends(cluster: Cluster, step: str) -> None:
    failed, killed, canceled = (cluster.begin() for _ in range(3))
    for run, end, state in ((failed, "fails", "FAILED"), (killed, "killed", "FAILED"), (canceled, "killed", "CANCELED")):
        run.step("plan")
        run.step(step, end)
        assert cluster.statuses(run.run)["parent"] == ("FAILED" if end == "fails" and step != "plan" else "RUNNING")
        cluster.end(run.run, state)
    done = {closed.run: closed.told for closed in cluster.close()}
    there = "MLflow (1)" if step == "plan" else "MLflow (2)"
    told = {
        failed.run: (there, "record") if step == "plan" else ("record",),
        killed.run: (there, "record"),
        canceled.run: (there, "record"),
    }
    assert done == told
    assert set(cluster.statuses(killed.run).values()) == {"FAILED"}
    assert set(cluster.statuses(canceled.run).values()) == {"KILLED"}
    [parent] = cluster.client.search_runs(
        [cluster.experiment], f"tags.`kfp.pipeline_run_id` = '{killed.run}' and tags.`distillery/role` = 'pipeline'"
    )
    assert parent.info.end_time == ENDED_MS


KILLED = """
import os, signal, sys
from pathlib import Path
from distillery.tracking.open import open_tracker
with open_tracker("distill_online", Path(sys.argv[1]), "a key") as tracker:
    tracker.metrics({"loss": 0.5}, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_is_told_of_by_the_command(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cluster.begin()
    run.step("plan")
    names = {"KFP_RUN_ID": run.run, "MLFLOW_TRACKING_URI": cluster.uri}
    done = subprocess.run([sys.executable, "-c", KILLED, str(cluster.folder)], env={**os.environ, **names}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert cluster.statuses(run.run) == {"parent": "RUNNING", "distill_online": "RUNNING"}
    cluster.end(run.run, "CANCELED")
    with cluster.fake.serve() as url:
        monkeypatch.setattr(sys, "argv", ["distillery", "cluster-runs", "--close"])
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", cluster.uri)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert (end.value.code or 0) == 0
    assert f"{run.run}  CANCELED  told MLflow (2)" in capsys.readouterr().out
    assert cluster.statuses(run.run) == {"parent": "KILLED", "distill_online": "KILLED"}


def test_what_works_or_is_another_clusters_is_left_alone(cluster: Cluster) -> None:
    working, elsewhere = cluster.begin(), cluster.begin()
    for run in (working, elsewhere):
        run.step("plan")
        run.step("distill_online", "killed")
    del cluster.fake.runs[elsewhere.run]
    assert cluster.close() == [Closed(elsewhere.run, "")]
    for run in (working, elsewhere):
        assert set(cluster.statuses(run.run).values()) == {"RUNNING"}
