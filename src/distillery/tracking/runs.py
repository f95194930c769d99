"""Which MLflow run a step belongs to: joined, found again, or made; works on a client handed in and imports no mlflow."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.tracking.protocol import DEFAULT_EXPERIMENT, PREFIX, Status

PARENT = "mlflow.parentRunId"
PIPELINE = "kfp.pipeline_run_id"
STAGE = PREFIX + "stage"
STEP_KEY = PREFIX + "step_key"
ROLE = PREFIX + "role"  # "pipeline" on parents that we made: the KFP plugin's are not ours to end


@dataclass
class ActiveRun:
    """A step's place in MLflow.

    `owns_parent` is False where the parent was made by the KFP plugin. `params` are those the run holds already, because a
    batch with one changed value is rejected whole.
    """

    client: Any
    experiment_id: str
    run_id: str
    parent_id: str = ""
    owns_parent: bool = False
    params: dict[str, str] = field(default_factory=dict)


class Runs:
    """Finds and makes the runs of a pipeline in one experiment."""

    def __init__(self, client: Any, uri: str) -> None:
        """Use the experiment of `MLFLOW_EXPERIMENT_ID`, else of `MLFLOW_EXPERIMENT_NAME`, else `distillery`."""
        self.client = client
        self.experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or _experiment(client, uri)

    def pipeline(self, name: str = "") -> Any:
        """The run of the whole pipeline, made where `KFP_RUN_ID` names one that is not there yet, or None without the variable."""
        pipeline_id = _pipeline_id()
        if not pipeline_id:
            return None
        found = [run for run in self._search(f"tags.`{PIPELINE}` = '{pipeline_id}'") if PARENT not in run.data.tags]
        if found:
            return found[0]
        tags = {PIPELINE: pipeline_id, ROLE: "pipeline", "mlflow.source.name": "distillery"}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=name or pipeline_id)

    def step(self, step: str, key: str) -> ActiveRun:
        """The run of one step: the injected one, its own unfinished one, or a new one below the pipeline's."""
        injected = os.environ.get("MLFLOW_RUN_ID")
        if injected:
            return self._join(injected, step, key)
        parent = self.pipeline()
        parent_id = parent.info.run_id if parent else ""
        owns_parent = bool(parent) and ROLE in parent.data.tags
        if owns_parent and parent.info.status != "RUNNING":
            self.client.update_run(parent_id, status="RUNNING")
        run = self._unfinished(step, key, parent_id)
        if run:
            self._adopt(run, parent_id)
        else:
            run = self.client.create_run(self.experiment_id, tags=_step_tags(step, key, parent_id), run_name=step)
        return ActiveRun(self.client, self.experiment_id, run.info.run_id, parent_id, owns_parent, dict(run.data.params))

    def _join(self, run_id: str, step: str, key: str) -> ActiveRun:
        run = self.client.get_run(run_id)
        if run.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        for name, value in ((STAGE, step), (STEP_KEY, key)):
            self.client.set_tag(run_id, name, value)
        return ActiveRun(self.client, run.info.experiment_id, run_id, run.data.tags.get(PARENT, ""), False, dict(run.data.params))

    def _unfinished(self, step: str, key: str, parent_id: str) -> Any:
        """The run that this step left behind when it was killed: by key anywhere, without a key below the same parent."""
        if not key and not parent_id:
            return None
        same = f"tags.`{STEP_KEY}` = '{key}'" if key else f"tags.`{PARENT}` = '{parent_id}'"
        found = self._search(f"{same} and tags.`{STAGE}` = '{step}' and attributes.status != 'FINISHED'")
        return found[-1] if found else None

    def _adopt(self, run: Any, parent_id: str) -> None:
        """Go on in a killed step's run, below the new pipeline run; the old one can only have been killed too."""
        run_id, old = run.info.run_id, run.data.tags.get(PARENT, "")
        self.client.update_run(run_id, status="RUNNING")
        if not parent_id or old == parent_id:
            return
        self.client.set_tag(run_id, PARENT, parent_id)
        self.client.set_tag(run_id, PIPELINE, _pipeline_id())
        if old and _is_ours_and_running(self.client.get_run(old)):
            self.client.set_terminated(old, "KILLED")

    def _search(self, query: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time ASC"]))


def end(link: ActiveRun, status: Status) -> None:
    """End a step's run, and with a step that did not finish its pipeline's."""
    link.client.set_terminated(link.run_id, status)
    if status != "FINISHED" and link.owns_parent:
        link.client.set_terminated(link.parent_id, status)


def _is_ours_and_running(run: Any) -> bool:
    return ROLE in run.data.tags and run.info.status == "RUNNING"


def _pipeline_id() -> str:
    """`KFP_RUN_ID` without what could end a quoted string in a search."""
    return "".join(letter for letter in os.environ.get("KFP_RUN_ID", "") if letter.isalnum() or letter in "._:-")


def _step_tags(step: str, key: str, parent_id: str) -> dict[str, str]:
    tags = {
        STAGE: step,
        STEP_KEY: key,
        PARENT: parent_id,
        PIPELINE: _pipeline_id(),
        "kfp.pod_name": os.environ.get("KFP_POD_NAME", ""),
        "mlflow.source.name": "distillery",
    }
    return {name: value for name, value in tags.items() if value}


def find_experiment(client: Any) -> str:
    """The id of the experiment that steps write into, "" where it is not there yet."""
    if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return known
    found = client.get_experiment_by_name(_experiment_name())
    return str(found.experiment_id) if found else ""


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def _experiment(client: Any, uri: str) -> str:
    name = _experiment_name()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
        except Exception:  # another step may have made it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def artifact_location(uri: str) -> str | None:
    """Where artifacts go: beside a sqlite file (MLflow's own default is the current folder), else as the server says."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or not path else (Path(path).resolve().parent / "mlartifacts").as_uri()
