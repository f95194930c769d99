"""`distillery compare`: two runs side by side."""

from typing import Annotated, Any

import typer

from distillery_kfp.pipelines.cli.stores import DEFAULT_STORE, StoreOption, console, open_existing

_COUNTS = ("images", "correct", "total", "parameters", "flops", "bytes")


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Its id, the beginning of it, or `last`.")],
    second: Annotated[str, typer.Argument(metavar="RUN")],
    store: StoreOption = DEFAULT_STORE,
    other_store: Annotated[str, typer.Option(help="Store of the second run, if it is another.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show in which values two runs differ, and their results side by side."""
    from distillery.config import canonical_json
    from distillery.ledger.compare import differences, results
    from distillery.ledger.runs import find_run

    runs = (find_run(open_existing(store), first), find_run(open_existing(other_store or store), second))
    config = differences(*runs)
    scores = [results(run) for run in runs]
    if json_:
        typer.echo(canonical_json({"runs": [run.id for run in runs], "config": config, "results": scores}))
        return
    heads = [f"{run.id}\n{run.recipe}, {run.standing}" for run in runs]
    _show("Configuration: what differs", heads, {key: (str(pair[0]), str(pair[1]), "") for key, pair in config.items()})
    names = dict.fromkeys(name for found in scores for name in found)
    _show("Results", heads, {name: _row(name, scores[0].get(name), scores[1].get(name)) for name in names})


def _row(name: str, first: float | None, second: float | None) -> tuple[str, str, str]:
    change = "" if first is None or second is None or first == second else _number(name, second - first, "+")
    return _number(name, first), _number(name, second), change


def _number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    last = name.rpartition("/")[2]
    if last in ("top1", "top5", "agreement"):
        return f"{value:{sign}.2%}"
    return f"{value:{sign},.0f}" if last in _COUNTS else f"{value:{sign},.4g}"


def _show(title: str, heads: list[str], rows: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        console().print(f"{title}: nothing.")
        return
    table = Table("", *map(escape, heads), "change" if title == "Results" else "", title=title, title_justify="left", box=None)
    for name, cells in rows.items():
        table.add_row(name, *(escape(cell) for cell in cells))
    console().print(table)
    console().print()
