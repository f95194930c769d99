"""Runs of pipelines that stand as running in MLflow although they are over; works on a client handed in and imports no mlflow."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from distillery.tracking.protocol import Status
from distillery.tracking.runs import PARENT, PIPELINE, find_experiment

_OPEN = ("RUNNING", "SCHEDULED")
_PAGE = 500


@dataclass(frozen=True)
class OpenRun:
    """A run in MLflow that nobody has ended.

    Attributes:
        id: in MLflow.
        name: of the step, or of the pipeline's run.
        parent: id of the run above it; "" of a pipeline's.
    """

    id: str
    name: str
    parent: str = ""


def status_of(client: Any, pipeline_run: str) -> str:
    """How the run of a whole pipeline stands in MLflow, "" where it has none there.

    Args:
        client: of MLflow.
        pipeline_run: its id at Kubeflow, of letters, digits and hyphens.
    """
    found = _search(client, f"tags.`{PIPELINE}` = '{pipeline_run}'")
    return next((str(run.info.status) for run in found if PARENT not in run.data.tags), "")


def find_open(client: Any) -> dict[str, tuple[OpenRun, ...]]:
    """Every open run of a pipeline, its steps' too, by the id that its pipeline's run has at Kubeflow."""
    found: dict[str, tuple[OpenRun, ...]] = {}
    for status in _OPEN:
        for run in _search(client, f"tags.`{PIPELINE}` LIKE '%' and attributes.status = '{status}'"):
            entry = OpenRun(run.info.run_id, run.info.run_name or "", run.data.tags.get(PARENT, ""))
            pipeline_run = run.data.tags[PIPELINE]
            found[pipeline_run] = (*found.get(pipeline_run, ()), entry)
    return found


def end_open(client: Any, runs: tuple[OpenRun, ...], status: Status, ended: str) -> None:
    """End the open runs of one pipeline's run, its steps' before its own.

    Args:
        client: of MLflow.
        runs: as `find_open` gives them.
        status: how the pipeline's run ended. A step's run that is open although that finished was killed, and tried again.
        ended: when, as ISO text; "" is now.
    """
    moment = _milliseconds(ended)
    for run in sorted(runs, key=lambda run: run.parent == ""):
        client.set_terminated(run.id, "KILLED" if run.parent and status == "FINISHED" else status, moment)
        if not run.parent:  # tasks of Kubeflow's plugin have its parent's tag alone
            for below in _search(client, f"tags.`{PARENT}` = '{run.id}' and attributes.status = 'RUNNING'"):
                client.set_terminated(below.info.run_id, "KILLED" if status == "FINISHED" else status, moment)


def _search(client: Any, query: str) -> Iterator[Any]:
    experiment = find_experiment(client)
    token: str | None = None
    while experiment:
        page = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from list(page)
        token = page.token
        if not token:
            return


def _milliseconds(moment: str) -> int | None:
    try:
        return int(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
    except ValueError:
        return None
