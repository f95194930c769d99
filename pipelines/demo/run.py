"""`make demo`: a teacher on real digits, the digits thrown away, two students distilled without them, and one taught on noise."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from rich.console import Console
from rich.table import Table

from distillery.errors import DistilleryError
from distillery.evaluation.report import EvaluationReport, load_report
from distillery.extras import need
from distillery.recipes.loader import load_recipe
from distillery.recipes.schema import training
from distillery.recipes.workload import workload_of
from distillery.redaction import redact_output
from distillery.runtime import resolve_runtime
from distillery_kfp.pipelines.demo.digits import TeacherTraining, make_teacher
from distillery_kfp.pipelines.runner.display import duration
from distillery_kfp.pipelines.runner.local import RunRequest, RunResult, execute

FOLDER = Path(".demo")
RECIPES = {"FastDFKD": "fast_dfkd/digits", "LS-GDFD": "ls_gdfd/digits"}


@dataclass(frozen=True)
class Size:
    """How much work the demo does; a test makes it small.

    Attributes:
        training: the teacher's schedule.
        overrides: recipe -> dotted keys and their values.
    """

    training: TeacherTraining = TeacherTraining()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, recipe: str) -> dict[str, Any]:
        """What replaces values of `recipe`."""
        return dict(self.overrides.get(recipe, {}))


@dataclass(frozen=True)
class TableRow:
    """One line of the final table.

    Attributes:
        name: whose it is.
        saw: what it was trained on.
        correct: test images named right.
        total: test images.
        parameters: of the network.
        seconds: wall time until it stood there, evaluation included.
    """

    name: str
    saw: str
    correct: int
    total: int
    parameters: int
    seconds: float


def main() -> None:
    """Run the demo; an error that the user can mend is one line on stderr and exit code 1."""
    redact_output()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        for extra in ("demo", "kubeflow"):
            need(extra, "The demo")
        show(console, FOLDER.absolute())
    except DistilleryError as error:
        Console(stderr=True).print(f"demo: {error}", markup=False, soft_wrap=True)
        raise SystemExit(1) from None


def show(console: Console, folder: Path, size: Size | None = None) -> None:
    """Run everything below `folder`, which is emptied first, and print the table."""
    size = size or Size()
    began = time.monotonic()
    rmtree(folder, ignore_errors=True)
    console.print("[bold]1/4[/] A teacher: WRN-16-2 on 1,347 handwritten digits of scikit-learn, 450 more kept for the test.")
    with console.status("training the teacher"):
        teacher = teach(folder, size)
    console.print("    Its training images were never written and are gone; from here on only its weights are used.")
    results = {}
    for number, (title, recipe) in enumerate(RECIPES.items(), start=2):
        console.print(f"[bold]{number}/4[/] {title}: recipe {recipe}, without any data.")
        results[title] = execute(request(folder, recipe, size), console)
    console.print("[bold]4/4[/] For comparison: the student of FastDFKD, with as many noise images and steps.")
    taught = execute(on_noise(folder, size), console)
    noise = replace(student_row("noise", load_report(taught.report), taught), name="student on noise")
    reports = {title: load_report(result.report) for title, result in results.items()}
    students = [student_row(title, reports[title], results[title]) for title in RECIPES]
    console.print(table([teacher, *students, noise], time.monotonic() - began))
    say_next(console, folder, results)


def teach(folder: Path, size: Size) -> TableRow:
    """Train the teacher and import it."""
    began = time.monotonic()
    made = make_teacher(folder, size.training, resolve_runtime(precision="float32"))
    correct = round(made["top1"] * made["images"])
    return TableRow("teacher", "1,347 real images", correct, made["images"], made["parameters"], time.monotonic() - began)


def request(folder: Path, recipe: str, size: Size) -> RunRequest:
    """What `distillery run` would be asked for."""
    return RunRequest(
        recipe=recipe,
        teacher=str(folder / "teacher"),
        store=str(folder / "store"),
        workdir=folder / "work",
        data=str(folder / "test.npz"),
        overrides=size.of(recipe),
    )


def student_row(title: str, report: EvaluationReport, result: RunResult) -> TableRow:
    """A distilled student's line."""
    scores = report.student.accuracy
    return TableRow(f"{title} student", "no real image", scores.correct, scores.total, report.student.cost.parameters, result.seconds)


def on_noise(folder: Path, size: Size) -> RunRequest:
    """The comparison: FastDFKD's student, number of images and steps, on noise, by the way that any images that are there take."""
    recipe = training(load_recipe(RECIPES["FastDFKD"], size.of(RECIPES["FastDFKD"])))
    student = recipe.student.to_json()
    chosen = {f"student.{name}": student[name] for name in ("architecture", "stages")}
    return RunRequest(
        recipe="students/digits-kd",
        teacher=str(folder / "teacher"),
        store=str(folder / "store"),
        workdir=folder / "work",
        data=str(folder / "test.npz"),
        images=f"noise://{workload_of(recipe).images}",
        overrides={**chosen, "registration.model_name": "distillery-noise"},
    )


def table(rows: list[TableRow], seconds: float) -> Table:
    """The teacher, the students and the comparison, with minutes."""
    shown = Table(title="450 real digits that nobody was trained on", caption=f"{duration(seconds)} in all")
    for heading in ("", "trained on", "correct", "top-1", "parameters", "share", "time"):
        shown.add_column(heading, justify="left" if heading in ("", "trained on") else "right")
    for row in rows:
        share = f"1/{rows[0].parameters / row.parameters:.1f}" if row is not rows[0] else ""
        score = (f"{row.correct}/{row.total}", f"{row.correct / row.total:.1%}")
        shown.add_row(row.name, row.saw, *score, f"{row.parameters:,}", share, duration(row.seconds))
    return shown


def say_next(console: Console, folder: Path, results: Mapping[str, RunResult]) -> None:
    """Where everything is, and a command to go on with; the reports last, for they are what to open first."""
    here = folder.name
    pages = (f"  {result.page.relative_to(folder.parent)}  ({title})" for title, result in results.items())
    lines = (
        "Look at the runs, with the synthesized images:",
        f"  .venv/bin/mlflow ui --backend-store-uri {next(iter(results.values())).tracking_uri}",
        "Next, LS-GDFD by moment matching alone:",
        f"  .venv/bin/distillery run ls_gdfd/digits-moments --teacher {here}/teacher --data {here}/test.npz --store {here}/store",
        "Open in a browser to see what came out:",
        *pages,
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
