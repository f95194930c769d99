"""`distillery prune`: what nothing in a store refers to any more."""

from typing import TYPE_CHECKING, Annotated

import typer

from distillery_kfp.pipelines.cli.stores import DEFAULT_STORE, StoreOption, WorkdirOption, console, open_existing, size, workdir_of

if TYPE_CHECKING:
    from distillery.ledger.prune import Waste


def prune(
    store: StoreOption = DEFAULT_STORE,
    workdir: WorkdirOption = "",
    forget: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Give up a stopped or failed run: its record and its checkpoints go.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List what no published set, student or open run refers to; with --yes, delete it.

    Published sets, students, the records of runs and all that a run may still be resumed from stay.
    """
    from distillery.config import canonical_json
    from distillery.ledger.prune import Survey
    from distillery.ledger.prune import prune as drop

    survey = Survey(open_existing(store), workdir_of(store, workdir), forget or ())
    waste = survey.waste()
    for warning in survey.warnings:
        typer.echo(f"distillery: {warning}", err=True)
    done = drop(survey, waste) if yes else None
    if json_:
        parts = {"found": waste} if done is None else {"dropped": done.dropped, "busy": done.busy}
        typer.echo(canonical_json({name: [_row(item) for item in items] for name, items in parts.items()}))
        return
    if not waste:
        typer.echo("Nothing to drop: everything is referred to.")
        return
    _show(waste)
    if done is None:
        typer.echo(f"{size(sum(item.bytes for item in waste))} in {len(waste)} places; give --yes to delete them.")
        return
    typer.echo(f"Deleted {size(sum(item.bytes for item in done.dropped))} in {len(done.dropped)} places.")
    for item in done.busy:
        typer.echo(f"{item.place} is kept: somebody works at it.")


def _row(item: "Waste") -> dict[str, object]:
    return {"place": item.place, "bytes": item.bytes, "reason": item.reason}


def _show(waste: "list[Waste]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("why it may go", overflow="fold")
    table.add_column("what", overflow="fold")
    for item in sorted(waste, key=lambda item: -item.bytes):
        table.add_row(size(item.bytes), item.reason, item.place)
    console().print(table)
