"""`distillery run --dry-run`: what a run would be and would cost; nothing is written."""

from typing import TYPE_CHECKING

from distillery.plain_yaml import write_yaml
from distillery_kfp.pipelines.cli.stores import console, size

if TYPE_CHECKING:
    from distillery.estimate.estimate import Estimate
    from distillery.workbench.moments import GivenMoments
    from distillery_kfp.pipelines.runner.local import RunRequest


def show_estimate(request: "RunRequest") -> None:
    """Check a request as its plan would, time a few of its steps, and print its resolved recipe and what it would cost.

    Raises:
        DistilleryError: what the plan would refuse.
    """
    import os

    from distillery.estimate.estimate import estimate
    from distillery.storage import open_store
    from distillery_kfp.pipelines.runner.local import check_writable

    pipeline = request.pipeline()
    check_writable(open_store(request.store).local_path("runs"), "--store")
    check_writable(request.workdir, "--workdir")
    device = request.device or os.environ.get("DISTILLERY_DEVICE") or "auto"
    found = estimate(pipeline, request.arguments(), device, request.threads, starts_of(pipeline))
    _show(request, pipeline, found)


def starts_of(pipeline: str) -> int:
    """How many processes of a run import what steps need: one, of which they are forked, or every step where that is not possible."""
    from distillery.step_table import PIPELINES
    from distillery_kfp.pipelines.runner import forkserver

    return 1 if forkserver.AVAILABLE else len(PIPELINES[pipeline].steps)


def _show(request: "RunRequest", pipeline: str, found: "Estimate") -> None:
    from rich.table import Table

    from distillery.estimate.shortage import shortages
    from distillery.storage import open_store

    screen = console()
    config = found.recipe.to_json()
    config.pop("about")
    if found.statistics:
        config.pop("statistics")  # a choice of what is extracted, and nothing is
    for line in (
        f"{request.recipe}: {pipeline}, seed {request.seed}; its resolved values:\n",
        write_yaml(config, default_flow_style=None, width=120),
    ):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False, title="Estimated time on this machine", title_justify="left")
    for heading in ("part", "times", "time", "measured"):
        table.add_column(heading, justify="right" if heading in ("times", "time") else "left", overflow="fold")
    for part in found.parts:
        table.add_row(part.name, f"{part.times:,}", _span(part.seconds), part.how)
    screen.print(table)
    lines = {
        **({"ensemble": found.sharding.sentence()} if found.sharding else {}),
        **({"moments": _moments(found.statistics)} if found.statistics else {}),
        "images": _images(found),
        "student": f"{found.student_steps:,} optimizer steps",
        "time": f"about {_span(found.seconds)}",
        "memory": f"about {size(found.memory)} in the largest step",
        "store": f"about {size(found.store)} in the end, {size(found.store_peak)} at most",
        "workspace": f"about {size(found.workspace)}, beside logs and MLflow's database",
    }
    screen.print()
    for name, text in lines.items():
        screen.print(f"{name:<11}{text}", highlight=False, soft_wrap=True)
    note = (
        f"Images and steps are exact. The rest are estimates: a few real steps, timed just now on {found.hardware}, multiplied out; "
        "other work on the machine counts in. Nothing was written."
    )
    screen.print(f"\n{note}", highlight=False, soft_wrap=True)
    for sentence in shortages(found, open_store(request.store), request.workdir):
        screen.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _moments(given: "GivenMoments") -> str:
    which = "of each class" if given.by_class else "of the teacher"
    measured = {"data": ", measured on labelled real images", "set": ", measured on a synthetic set"}.get(given.measured_on, "")
    return f"{which}{measured}, from {given.uri}"


def _images(found: "Estimate") -> str:
    begun, ood = found.counted.begun, found.counted.ood
    before = f", {begun:,} of them from the set that the pool begins with" * bool(begun)
    if found.counted.given:
        held = f", {found.counted.given_holdout:,} of them held out" * bool(found.counted.given_holdout)
        kind = "given" if found.counted.real else "of a set made before"
        return f"{found.images:,} {kind}{held}" + f"; beside them {ood:,} of another domain" * bool(ood)
    return f"{found.images:,} synthetic{before}" + f"; beside them {ood:,} of another domain" * bool(ood)


def _span(seconds: tuple[float, float]) -> str:
    from distillery_kfp.pipelines.runner.display import duration

    low, high = (duration(value) for value in seconds)
    return low if low == high else f"{low} to {high}"
