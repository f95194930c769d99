"""How runs ended on a cluster, told to MLflow and to our records where nobody else could: a step that is killed tells nobody.

No step of a pipeline can: one that hangs on the last step does not run where an earlier one fails. What Kubeflow says of a run is its true
end, and is carried over to whatever still stands as running. A run that this Kubeflow does not know is left alone: it may be another one's.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from distillery.ledger.runs import Run, RunState, amend_run, list_runs, place_of
from distillery.storage import Store
from distillery.tracking.ends import OpenRun, end_open, find_open, status_of
from distillery.tracking.mlflow import reading
from distillery.tracking.protocol import Status
from distillery_kfp.pipelines.registrar.api import OVER, Document, KubeflowApi

_STATUSES: dict[str, Status] = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "SKIPPED": "FAILED", "CANCELED": "KILLED"}
"""What MLflow calls the ends of Kubeflow, as Kubeflow's own plugin translates them."""
assert set(_STATUSES) == set(OVER)
_OF_KUBEFLOW = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class ClusterRun:
    """A run as three observers see it.

    Attributes:
        run: its id at Kubeflow, and in our records.
        name: on Kubeflow's pages.
        state: that Kubeflow says.
        record: how our record stands; "" where there is none, or no store was named.
        mlflow: status of its parent in MLflow; "" where there is none, or no server is named.
        began: when, as ISO text.
        ended: likewise; "" while it works.
        page: its page at Kubeflow.
    """

    run: str
    name: str
    state: str
    record: str
    mlflow: str
    began: str
    ended: str
    page: str

    def to_json(self) -> dict[str, str]:
        """What programs read of it."""
        return asdict(self)


@dataclass(frozen=True)
class Closed:
    """What was done about a run that stood as running.

    Attributes:
        run: its id.
        state: that Kubeflow says; "" of one that it does not know, which is left alone.
        told: who was told: MLflow with the number of runs there, the record.
    """

    run: str
    state: str
    told: tuple[str, ...] = ()


def list_cluster_runs(api: KubeflowApi, experiment: str, newest: int, store: Store | None, mlflow: str) -> list[ClusterRun]:
    """The newest runs of an experiment.

    Args:
        api: of Kubeflow.
        experiment: its name; one that is not there has none.
        newest: at most so many.
        store: of our records; None looks at none.
        mlflow: its address; "" asks none.

    Raises:
        DistilleryError: one of them does not answer.
    """
    found = api.experiment(experiment)
    runs = list(islice(api.runs(str(found["experiment_id"])), newest)) if found else []
    records = {run.id: run.standing for run in list_runs(store)} if store is not None and runs else {}
    parents = _statuses(mlflow, [str(run["run_id"]) for run in runs])
    return [
        ClusterRun(
            run=str(run["run_id"]),
            name=str(run.get("display_name", "")),
            state=str(run.get("state", "")),
            record=records.get(str(run["run_id"]), ""),
            mlflow=parents.get(str(run["run_id"]), ""),
            began=str(run.get("created_at", "")),
            ended=_ended(run),
            page=api.client.access.page_of(str(run["run_id"])),
        )
        for run in runs
    ]


def close_ended(api: KubeflowApi, store: Store | None, mlflow: str) -> list[Closed]:
    """Tell MLflow and our records of every run that stands as running there and is over; may be repeated.

    Args:
        api: of Kubeflow.
        store: of our records; None leaves them.
        mlflow: its address; "" leaves it.

    Returns:
        The runs that were looked at and do not work any more.

    Raises:
        DistilleryError: one of them does not answer; what was told before stays.
    """
    records = {run.id: run for run in _open_records(store)}
    if not mlflow:
        return [closed for run in records if (closed := _close(api, run, store, records.get(run), (), None)) is not None]
    with reading(mlflow, "the runs of pipelines") as client:
        standing = {run: rows for run, rows in find_open(client).items() if _OF_KUBEFLOW.fullmatch(run)}
        looked = [_close(api, run, store, records.get(run), standing.get(run, ()), client) for run in sorted({*records, *standing})]
    return [closed for closed in looked if closed is not None]


def _close(api: KubeflowApi, identity: str, store: Store | None, record: Run | None, rows: Sequence[OpenRun], client: Any) -> Closed | None:
    run = api.run(identity)
    if run is None:
        return Closed(identity, "")
    state = str(run.get("state", ""))
    if state not in OVER:
        return None
    told = []
    if rows:
        end_open(client, tuple(rows), _STATUSES[state], _ended(run))
        told.append(f"MLflow ({len(rows)})")
    if store is not None and record is not None and _STATUSES[state] != "FINISHED":
        amend_run(store, identity, {"state": _noted(run, _STATUSES[state], store).to_json()})
        told.append("record")
    return Closed(identity, state, tuple(told))


def _noted(run: Document, status: Status, store: Store) -> RunState:
    said = str((run.get("error") or {}).get("message", ""))
    message = f"Kubeflow ended it as {run['state']}{f': {said}' if said else ''}."
    return RunState("failed" if status == "FAILED" else "stopped", at=_ended(run), message=message, store=place_of(store))


def _open_records(store: Store | None) -> Iterator[Run]:
    """Records of runs on a cluster that have not finished; a runner on some machine notes for itself how its own go."""
    if store is not None:
        yield from (run for run in list_runs(store) if run.standing == "open" and _OF_KUBEFLOW.fullmatch(run.id))


def _statuses(mlflow: str, runs: Sequence[str]) -> dict[str, str]:
    if not mlflow or not runs:
        return {}
    with reading(mlflow, "the runs of pipelines") as client:
        return {run: status_of(client, run) for run in runs if _OF_KUBEFLOW.fullmatch(run)}


def _ended(run: Document) -> str:
    ended = str(run.get("finished_at") or "")
    return "" if ended.startswith(("1970-", "0001-")) else ended  # how a server writes that it has not
