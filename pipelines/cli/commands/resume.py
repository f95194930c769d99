"""`distillery resume`: a stopped or failed run goes on, from its record alone."""

from dataclasses import replace
from typing import Annotated

import typer

from distillery_kfp.pipelines.cli.stores import DEFAULT_STORE, StoreOption, WorkdirOption, open_existing, workdir_of


def resume(
    run: Annotated[str, typer.Argument(help="Its id or the beginning of it, as `distillery runs` lists it; `last` is the newest.")],
    store: StoreOption = DEFAULT_STORE,
    workdir: WorkdirOption = "",
    teacher: Annotated[str, typer.Option(metavar="BUNDLE", help="Where the same teacher lies now, if it was moved.")] = "",
    data: Annotated[str, typer.Option(help="Where the test images lie now, if they were moved.")] = "",
    images: Annotated[str, typer.Option(metavar="SET|IMAGES", help="Where what the student is trained on lies now, if it was moved.")] = "",
    student_start: Annotated[
        str, typer.Option(metavar="BUNDLE", help="Where the weights that the student begins with lie now, if they were moved.")
    ] = "",
    start: Annotated[str, typer.Option(metavar="SET", help="Where the set that the pool began with lies now, if it was moved.")] = "",
    ood: Annotated[str, typer.Option(metavar="PICTURES|SET", help="Where the images of another domain lie now, if they were moved.")] = "",
    statistics: Annotated[str, typer.Option(metavar="FILE", help="Where the teacher's moments lie now, if they were moved.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, if not as before.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads of a step, if not as before.")] = 0,
) -> None:
    """Go on with a run that was stopped or failed: same recipe, overrides, seed and teacher, all read from its record."""
    from distillery.ledger.runs import find_run
    from distillery_kfp.pipelines.cli.running import carry_out
    from distillery_kfp.pipelines.runner.resume import request_of, workspace_of

    opened = open_existing(store)
    found = find_run(opened, run)
    moved = {"teacher": teacher, "data": data, "images": images, "start": start, "ood": ood, "statistics": statistics}
    moved |= {"student_start": student_start}
    place = workdir_of(store, workdir)
    request = request_of(found, store, place if workdir else workspace_of(found, opened, place), moved)
    carry_out(replace(request, device=device or request.device, threads=threads or request.threads))
