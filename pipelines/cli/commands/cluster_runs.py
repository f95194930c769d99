"""`distillery cluster-runs`: what Kubeflow, our records and MLflow say of runs, and the true end for those that stand as running."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from distillery_kfp.pipelines.cli.cluster import ExperimentOption, HostOption, NamespaceOption, open_api
from distillery_kfp.pipelines.cli.stores import console, open_existing

if TYPE_CHECKING:
    from distillery_kfp.pipelines.registrar.closing import ClusterRun


def cluster_runs(
    close: Annotated[
        bool, typer.Option("--close", help="Give MLflow's runs and our records that stand as running the end that Kubeflow says.")
    ] = False,
    store: Annotated[str, typer.Option(help="Of our records  \\[default: DISTILLERY_STORE; without it none is looked at].")] = "",
    experiment: ExperimentOption = "distillery",
    newest: Annotated[int, typer.Option(min=1, help="List at most so many runs.")] = 20,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """List runs of a cluster with their states at Kubeflow, in our records and in MLflow, which MLFLOW_TRACKING_URI names."""
    from distillery.config import canonical_json
    from distillery.tracking.protocol import tracking_uri
    from distillery_kfp.pipelines.registrar.closing import close_ended, list_cluster_runs

    place = store or os.environ.get("DISTILLERY_STORE", "").strip()
    opened = open_existing(place) if place else None
    api = open_api(host, namespace)
    if close:
        for closed in close_ended(api, opened, tracking_uri()):
            said = f"told {', '.join(closed.told) or 'nobody'}" if closed.state else "left alone: this Kubeflow does not know it"
            typer.echo(f"{closed.run}  {closed.state or 'unknown'}  {said}")
        return
    found = list_cluster_runs(api, experiment, newest, opened, tracking_uri())
    if json_:
        typer.echo(canonical_json([run.to_json() for run in found]))
    elif found:
        _show(found)
    else:
        typer.echo(f"The experiment {experiment!r} has no runs.")


def _show(found: "list[ClusterRun]") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("run", "name", "Kubeflow", "record", "MLflow", "began (UTC)", "ended"):
        table.add_column(heading, no_wrap=heading == "run")
    for run in found:
        moments = (moment[:16].replace("T", " ") for moment in (run.began, run.ended))
        table.add_row(run.run, escape(run.name), run.state, run.record, run.mlflow, *moments)
    console().print(table)
