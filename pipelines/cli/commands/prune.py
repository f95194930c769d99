"""`distillery prune`: what nothing in a store refers to any more."""

from typing import TYPE_CHECKING, Annotated

import typer

from distillery.grammar import counted
from distillery_kfp.pipelines.cli.stores import DEFAULT_STORE, StoreOption, WorkdirOption, console, open_existing, size, workdir_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillery.ledger.prune import Garbage


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
    from distillery.ledger.prune import Inventory
    from distillery.ledger.prune import prune as drop

    inventory = Inventory(open_existing(store), workdir_of(store, workdir), forget or ())
    garbage = inventory.garbage()
    for warning in inventory.warnings:
        typer.echo(f"distillery: {warning}", err=True)
    done = drop(inventory, garbage) if yes else None
    if json_:
        parts = {"found": garbage} if done is None else {"dropped": done.dropped, "busy": done.busy}
        typer.echo(canonical_json({name: [_row(item) for item in items] for name, items in parts.items()}))
        return
    if not garbage:
        typer.echo("Nothing to drop: everything is referred to.")
        return
    _show(garbage)
    if done is None:
        typer.echo(f"{size(sum(item.bytes for item in garbage))} in {_places(garbage)}; give --yes to delete them.")
        return
    typer.echo(f"Deleted {size(sum(item.bytes for item in done.dropped))} in {_places(done.dropped)}.")
    for item in done.busy:
        typer.echo(f"{item.place} is kept: somebody works at it.")


def _places(items: "Sequence[Garbage]") -> str:
    return counted(len(items), "place")


def _row(item: "Garbage") -> dict[str, object]:
    return {"place": item.place, "bytes": item.bytes, "reason": item.reason}


def _show(garbage: "list[Garbage]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("why it may go", overflow="fold")
    table.add_column("what", overflow="fold")
    for item in sorted(garbage, key=lambda item: -item.bytes):
        table.add_row(size(item.bytes), item.reason, item.place)
    console().print(table)
