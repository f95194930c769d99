"""`distillery audit`: from a student back to the teacher, every byte hashed again."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from distillery_kfp.pipelines.cli.stores import console

if TYPE_CHECKING:
    from rich.table import Table

    from distillery.ledger.evidence import Link

_STYLES = {"ok": "green", "unreachable": "yellow", "unused": "dim"}


def audit_student(
    version: Annotated[
        str, typer.Argument(metavar="VERSION|BUNDLE", help="name:3, name@champion or models:/name/3 of MLflow's registry; or a bundle.")
    ],
    store: Annotated[
        str, typer.Option(help="Where runs, sets and checkpoints lie  \\[default: what the version names, or the bundle lies in].")
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Also fail where a link cannot be reached.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Walk from a student to its run, set, generator, statistics and teacher, and hash every file again.

    Prints the chain, or the first link that is broken, with exit code 1. MLflow is the one of MLFLOW_TRACKING_URI, else the database
    in the workspace.
    """
    from distillery.errors import StoreError
    from distillery.ledger.audit import audit

    links = audit(version, store)
    if json_:
        typer.echo(json.dumps([link.to_json() for link in links], indent=2))
    else:
        _show(links)
    missed = [link.name for link in links if link.state == "unreachable"]
    if strict and missed:
        raise StoreError(f"Not reached: {', '.join(missed)}; with --strict every link has to be hashed again.")


def _show(links: "tuple[Link, ...]") -> None:
    shown = console()
    shown.print(_table(links))
    held = sum(link.state == "ok" for link in links)
    missed = ", ".join(link.name for link in links if link.state == "unreachable")
    shown.print(f"{held} links hold, none is broken" + (f"; not reached: {missed}" if missed else ""), markup=False)


def _table(links: "tuple[Link, ...]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("link", "", "what", "sha256 and place", box=None, padding=(0, 2, 1, 0))
    for link in links:
        place = "\n".join(part for part in (link.sha256, link.where, link.note) if part)
        table.add_row(link.name, Text(link.state, _STYLES[link.state]), Text(link.what), Text(place, overflow="fold"))
    return table
