"""What `run` and `resume` share: a request carried out, shown, and told how to go on where it is stopped."""

import signal
from typing import TYPE_CHECKING

import typer

from distillery_kfp.pipelines.cli.stores import console

if TYPE_CHECKING:
    from distillery_kfp.pipelines.runner.local import RunRequest


def carry_out(request: "RunRequest") -> None:
    """Run, and show what came out.

    Raises:
        DistilleryError: the sentence of the step that failed.
        SystemExit: stopped by a signal.
    """
    from distillery_kfp.pipelines.runner.local import execute

    screen = console()
    try:
        result = execute(request, screen)
    except SystemExit as stop:
        if stop.code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            typer.echo(f"to go on: {request.command()}", err=True)
            typer.echo("distillery: stopped; the same command goes on from the last checkpoint.", err=True)
        raise
    from distillery_kfp.pipelines.runner.outcome import show_result

    show_result(screen, result)
