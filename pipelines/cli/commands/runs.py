"""`distillery runs`: what ran in a store, how it ended, and where everything is."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery_kfp.pipelines.cli.stores import DEFAULT_STORE, StoreOption, console, open_existing

if TYPE_CHECKING:
    from distillery.ledger.runs import Run

_COLUMNS = ("run", "recipe", "seed", "state", "top-1", "teacher's", "agreement", "began (UTC)", "took")
_RIGHT = ("seed", "top-1", "teacher's", "agreement", "took")


def runs(
    run: Annotated[str, typer.Argument(help="Show one run whole: its id, the beginning of it, or `last`.")] = "",
    store: StoreOption = DEFAULT_STORE,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List what ran, with which recipe and seed, how it stands and how well its student does."""
    from distillery.config import canonical_json
    from distillery.ledger.runs import find_run, list_runs

    opened = open_existing(store)
    found = [find_run(opened, run)] if run else list_runs(opened)
    rows = [item.to_json(opened.uri) for item in found]
    for item in [] if run else found:
        for sentence in item.damage:
            typer.echo(f"distillery: {sentence}", err=True)
    if json_:
        typer.echo(canonical_json(rows[0] if run else rows))
    elif run:
        _show_one(rows[0])
    elif not rows:
        typer.echo(f"Nothing ran in {store} yet: `distillery run RECIPE --teacher BUNDLE --store {store}`.")
    else:
        _show(found, opened.uri)


def _show(found: "list[Run]", uri: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", no_wrap=heading in ("run", "began (UTC)"))
    for run in found:
        row = run.to_json(uri)
        scores = (_percent(row[name]) for name in ("student_top1", "teacher_top1", "agreement"))
        recipe = f"{run.recipe}, {run.student_method}" if run.student_method else run.recipe
        table.add_row(run.id, escape(recipe), str(run.seed), run.standing, *scores, run.began[:16].replace("T", " "), _took(run.seconds))
    console().print(table)
    console().print(
        f"\nAll below {uri}; `distillery runs RUN` shows where a run's student, set and report are.", highlight=False, soft_wrap=True
    )


def _show_one(row: dict[str, Any]) -> None:
    shown = {**row, "teacher": f"{row['teacher']['uri']}  ({row['teacher']['sha256'][:12]})", "seconds": _took(row["seconds"])}
    shown |= {name: _percent(row[name]) for name in ("student_top1", "teacher_top1", "agreement")}
    labels = {"seconds": "took", "page": "report", "student_top1": "top-1", "teacher_top1": "teacher's", "student_method": "student by"}
    for name, value in shown.items():
        if value not in ("", None):
            console().print(f"{labels.get(name, name):<12}{value}", highlight=False, markup=False, soft_wrap=True)


def _took(seconds: float) -> str:
    from distillery_kfp.pipelines.runner.display import duration

    return duration(seconds) if seconds else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
