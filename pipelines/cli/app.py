"""The `distillery` command. Whatever is heavy is imported where it is used: help, `recipes` and `methods` answer at once."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from distillery.errors import ConfigError, DistilleryError
from distillery.grammar import counted
from distillery.redaction import redact_output
from distillery_kfp.pipelines.cli import options
from distillery_kfp.pipelines.cli.allowing import allowing
from distillery_kfp.pipelines.cli.commands.audit import audit_student
from distillery_kfp.pipelines.cli.commands.cluster_runs import cluster_runs
from distillery_kfp.pipelines.cli.commands.compare import compare
from distillery_kfp.pipelines.cli.commands.compiling import compile_pipelines
from distillery_kfp.pipelines.cli.commands.export import export_images
from distillery_kfp.pipelines.cli.commands.export_student import export_student
from distillery_kfp.pipelines.cli.commands.extract_statistics import extract_statistics
from distillery_kfp.pipelines.cli.commands.inspect import inspect_set
from distillery_kfp.pipelines.cli.commands.invert import invert
from distillery_kfp.pipelines.cli.commands.pods import show_pods
from distillery_kfp.pipelines.cli.commands.predict import predict
from distillery_kfp.pipelines.cli.commands.prune import prune
from distillery_kfp.pipelines.cli.commands.resume import resume
from distillery_kfp.pipelines.cli.commands.runs import runs
from distillery_kfp.pipelines.cli.commands.schedule import schedule_runs
from distillery_kfp.pipelines.cli.commands.submit import submit_run
from distillery_kfp.pipelines.cli.commands.train_student import train_student
from distillery_kfp.pipelines.cli.commands.upload import upload_packages
from distillery_kfp.pipelines.cli.commands.verify import verify_set
from distillery_kfp.pipelines.cli.stores import console, workdir_of

app = typer.Typer(
    name="distillery",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Turn a trained image classifier into a smaller one without the data it was trained on.\n\n"
    "Start with `distillery recipes`, bring your teacher in with `distillery import-teacher`, then `distillery run`.",
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"distillery {version('distillery')}")
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """What comes before a command."""


def main() -> None:
    """Run the command; an error that the user can mend is one line on stderr and exit code 1, and so is torch where it was left out."""
    redact_output()
    try:
        app()
    except DistilleryError as error:
        typer.echo(f"distillery: {' '.join(str(error).split())}", err=True)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        what = "This command computes with torch, which is not installed here: the image of tools leaves it out"
        typer.echo(f"distillery: {what}; give the command where the runtime's packages are.", err=True)
        raise SystemExit(1) from None


@app.command()
@allowing
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="A name that `distillery recipes` lists, or your own file.")],
    teacher: options.Bundle,
    data: options.TestImages = "",
    images: options.Images = "",
    student_method: options.StudentMethod = "",
    student_start: options.StudentStart = "",
    start: options.StartSet = "",
    ood: options.OodImages = "",
    statistics: options.Moments = "",
    set_: options.Assignments = None,
    store: options.RunStore = "distillery-store",
    workdir: options.RunWorkdir = "",
    seed: options.Seed = 0,
    device: options.Device = "",
    threads: options.Threads = 0,
    salt: options.Salt = "",
    dry_run: options.DryRun = False,
) -> None:
    """Distil a teacher into a student, as the recipe says, on this machine.

    A run that was stopped goes on where it was: give the same command again. Equal inputs find finished work and take it.
    """
    from distillery.recipes.loader import parse_assignments
    from distillery_kfp.pipelines.cli.commands.dry_run import show_estimate
    from distillery_kfp.pipelines.cli.running import carry_out
    from distillery_kfp.pipelines.runner.local import RunRequest

    request = RunRequest(
        recipe=recipe,
        teacher=teacher,
        store=store,
        workdir=workdir_of(store, workdir),
        data=data,
        start=start,
        ood=ood,
        statistics=statistics,
        images=images,
        student_method=student_method,
        student_start=student_start,
        overrides=parse_assignments(set_ or []),
        seed=seed,
        salt=salt,
        device=device,
        threads=threads,
    )
    (show_estimate if dry_run else carry_out)(request)


@app.command()
def recipes(
    name: Annotated[
        str, typer.Argument(metavar="[NAME|FOLDER]", help="Show one recipe whole, or list a folder, as ls_gdfd; without it, list all.")
    ] = "",
) -> None:
    """List recipes: what each costs in images and student steps, and which teacher it expects."""
    from distillery.recipes.loader import recipe_folders
    from distillery_kfp.pipelines.cli.listing import show_recipe, show_recipes

    if name and name not in recipe_folders():
        show_recipe(console(), name)
    else:
        show_recipes(console(), name)


@app.command()
def methods() -> None:
    """List the methods: what each optimises, when it meets the student, what it needs of the teacher."""
    from distillery_kfp.pipelines.cli.listing import show_methods

    show_methods(console())


@app.command()
def objectives() -> None:
    """List what a student can minimise: each by its paper, with what it needs beside images and a teacher."""
    from distillery_kfp.pipelines.cli.listing import show_objectives

    show_objectives(console())


@app.command()
def import_teacher(
    checkpoint: Annotated[Path, typer.Argument(help="safetensors, or a file of torch.save that holds a state dict.")],
    architecture: Annotated[str, typer.Option(help="resnet34, wrn_40_2, torchvision:resnet50, timm:NAME or your.module:factory.")],
    shape: Annotated[str, typer.Option(help="Channels, height and width: 3,32,32.")],
    mean: Annotated[str, typer.Option(help="One value a channel, of pixels in [0, 1]: 0.491,0.482,0.447.")],
    std: Annotated[str, typer.Option(help="One value a channel.")],
    classes: Annotated[str, typer.Option(help="Names in the order of the logits: cat,dog; a text file with one a line; or a number.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    argument: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the architecture.")] = None,
    weights: Annotated[
        str, typer.Option(metavar="KEY", help="Which weights of the file: the dotted beginning of their names, such as ema.state_dict.")
    ] = "",
    check: Annotated[str, typer.Option(help="Labelled images: print the teacher's top-1 on them (a wrong mean or std shows here).")] = "",
) -> None:
    """Turn somebody's checkpoint into a teacher bundle: verified, hashed, with its own normalisation."""
    from distillery.recipes.loader import parse_assignments

    spec = dict(zip(("channels", "height", "width"), _integers("--shape", shape, 3), strict=True))
    settings = {"name": architecture, "arguments": parse_assignments(argument or [], "--argument")}
    constants = {"mean": _floats("--mean", mean), "std": _floats("--std", std)}
    from distillery.data.class_names import read_class_names
    from distillery.steps.import_teacher import run as import_checkpoint

    names = read_class_names(classes)
    result = import_checkpoint(checkpoint, settings, {**spec, **constants}, names, out, check, weights)
    shown = console()
    layers = counted(result["batchnorm"], "BatchNorm layer")
    shown.print(f"{out}: {architecture}, {result['parameters']:,} parameters, {layers}, {len(names)} classes")
    if "top1" in result:
        shown.print(f"top-1 on {counted(result['images'], 'image')}: {result['top1']:.2%}")
    shown.print(f"sha256 {result['sha256']}", soft_wrap=True)


@app.command()
@allowing
def evaluate(
    student: Annotated[
        list[str],
        typer.Argument(help="Bundle to score: a folder or a URI; several are scored as one, by their mean answer, and each alone."),
    ],
    teacher: Annotated[str, typer.Option(help="Bundle to compare with, likewise.")],
    data: Annotated[str, typer.Option(help="Labelled images: npz, npy, idx or CIFAR files, or a folder a class.")],
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the report here.")] = None,
    device: options.Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, for the latencies too; 0 is torch's choice.")] = 0,
) -> None:
    """Score a student beside its teacher on labelled images: the student's, where it tells other classes apart than the teacher."""
    from distillery import evaluate as score
    from distillery.evaluation.report import save_report
    from distillery.evaluation.table import table
    from distillery.provenance import Provenance, code_version
    from distillery_kfp.pipelines.cli.bar import bar

    several = student if len(student) > 1 else student[0]
    with bar() as tell:
        report = score(
            several, teacher, data, device=device, threads=threads, progress=lambda told: tell(told.stage, told.done, told.total)
        )
    if json_:
        judged = {f"student/{number}": one.sha256 for number, one in enumerate(report.members, start=1)}
        inputs = {"teacher": report.teacher.sha256, **(judged or {"student": report.student.sha256})}
        save_report(json_.absolute(), report, Provenance(inputs=inputs, code_version=code_version()))
    console().print(table(report))


app.command("compile")(compile_pipelines)
app.command("upload")(upload_packages)
app.command("submit")(submit_run)
app.command("schedule")(schedule_runs)
app.command()(cluster_runs)
app.command("pods")(show_pods)
app.command("audit")(allowing(audit_student))
app.command("inspect")(allowing(inspect_set))
app.command("verify")(verify_set)
app.command("export")(allowing(export_images))
app.command()(allowing(export_student))
app.command()(allowing(extract_statistics))
app.command()(allowing(invert))
app.command()(allowing(train_student))
app.command()(allowing(predict))
app.command()(runs)
app.command()(allowing(resume))
app.command()(compare)
app.command()(prune)


def _integers(flag: str, text: str, count: int) -> list[int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"{flag} {text!r} is not allowed: give {count} whole numbers with commas between, such as 3,32,32.")
    return [int(part) for part in parts]


def _floats(flag: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not allowed: give numbers with commas between, such as 0.49,0.48,0.45.") from None


if __name__ == "__main__":
    main()
