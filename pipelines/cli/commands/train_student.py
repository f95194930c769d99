"""`distillery train-student`: a recipe's student alone, on a set, a live synthesizer or real data, in this process."""

from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery.environment import environment
from distillery_kfp.pipelines.cli.sets import SET_HELP, open_set
from distillery_kfp.pipelines.cli.stores import console, workdir_of

if TYPE_CHECKING:
    from distillery.recipes.schema import Recipe
    from distillery.step_table import SetFolder


def train_student(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="Whose student to train; its synthesis is not run.")],
    teacher: Annotated[str, typer.Option(metavar="BUNDLE", help="The teacher's folder, or its URI in a store.")],
    out: Annotated[Path, typer.Option(help="Folder for the student's bundle.")],
    set_uri: Annotated[str, typer.Option(metavar="SET", help=f"Train on a set. {SET_HELP}")] = "",
    synthesizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Train on new images for each step, from this trained synthesizer.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The teacher's statistics, where the synthesizer's method needs them.")
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="LABELLED",
            help="Train on real labelled images (npz, npy, idx or CIFAR files, a folder a class): the ceiling, which a data owner can run.",
        ),
    ] = "",
    ood: Annotated[
        str, typer.Option(metavar="PICTURES|SET", help="Images of another domain, for stages of the recipe with an ood_share.")
    ] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random stream.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is cuda where there is one.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is torch's choice.")] = 0,
    workdir: Annotated[str, typer.Option(help="Folder for checkpoints, logs and locks  \\[default: .distillery beside --out].")] = "",
) -> None:
    """Train a recipe's student on one source: a set, a live synthesizer, or real data.

    A live synthesizer has no size: an epoch that names no steps is as long as a pass over the recipe's set. Only a set has held-out
    images; on the others the last epoch is the student. The same command goes on where it was stopped.
    """
    from distillery.recipes.loader import load_recipe, parse_assignments
    from distillery.step_table import StatisticsFile, StudentFolder, SynthesizerFolder
    from distillery.steps.train_student import Inputs, Outputs, run
    from distillery.workbench.sources import only_one

    only_one({"--set-uri": set_uri, "--synthesizer": synthesizer, "--data": data})
    out, folder = out.expanduser().absolute(), workdir_of(str(out), workdir)
    _check_folders(out, folder)
    chosen = {"DISTILLERY_WORKDIR": str(folder), "DISTILLERY_DEVICE": device, "DISTILLERY_THREADS": str(threads or "")}
    with environment({**chosen, "DISTILLERY_FOLDER_STORE": "1"}):
        section = _plan(load_recipe(recipe, parse_assignments(set_ or [])), teacher, seed, synthesizer, ood)
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            inputs = Inputs(
                teacher_uri=teacher,
                set=_refer(set_uri, Path(beside) / "set") if set_uri else None,
                synthesizer=SynthesizerFolder(synthesizer) if synthesizer else None,
                statistics=StatisticsFile(statistics) if statistics else None,
                data_uri=data,
                synth_ood_uri=ood,
            )
            numbers = run(section, inputs, Outputs(student=StudentFolder(Path(beside) / "student")))
            rmtree(out, ignore_errors=True)
            (Path(beside) / "student").rename(out)
    _show(out, numbers)


def _check_folders(out: Path, workdir: Path) -> None:
    """Refuse what could not be written before anything is trained.

    Raises:
        StoreError: a folder that is not ours to replace, or that this user may not write.
    """
    from distillery.errors import StoreError
    from distillery.models.bundle import DOCUMENT
    from distillery_kfp.pipelines.runner.local import check_writable

    check_writable(out, "--out")
    check_writable(workdir, "--workdir")
    if out.is_dir() and any(out.iterdir()) and not (out / DOCUMENT).is_file():
        raise StoreError(f"--out {str(out)!r} holds something that is no bundle: choose a new or an empty folder.")


def _plan(recipe: "Recipe", teacher_uri: str, seed: int, synthesizer: Path | None, ood_uri: str) -> dict[str, Any]:
    """The step's section, checked against the teacher as a run's plan would."""
    from distillery.models.catalog import code_of_others
    from distillery.provenance import code_version
    from distillery.recipes.sections import StudentSection
    from distillery.synthesis.bundle import list_synthesizers, load_synthesizer
    from distillery.workbench.bench import runtime_here
    from distillery.workbench.networks import check_networks
    from distillery.workbench.planning import check_expected, open_ood, open_ood_of_trained, verify_teacher

    live = synthesizer is not None
    teacher = verify_teacher(teacher_uri, "")
    check_expected(recipe, teacher.info)
    check_networks(recipe, teacher, runtime_here(recipe.precision), makes_images=live)
    stages, spec = recipe.student.stages, teacher.info.spec
    made = load_synthesizer(list_synthesizers(synthesizer)[0], teacher.sha256) if synthesizer else None
    ood = open_ood_of_trained(ood_uri, stages, made, spec) if made else open_ood(ood_uri, stages, 0, spec)
    section = {
        "seed": seed,
        "code_version": code_version(),
        "teacher_sha256": teacher.sha256,
        **code_of_others(teacher.info.architecture, recipe.student.architecture),
        "precision": recipe.precision,
        "student": _sized(recipe) if live else recipe.student,
        "ood_sha256": ood.digest if ood else "",
    }
    return StudentSection.parse(section, "student").to_json()


def _sized(recipe: "Recipe") -> Any:
    """The recipe's student for images without end."""
    return recipe.student.model_copy(update={"stages": tuple(stage.sized(recipe.set.size) for stage in recipe.student.stages)})


def _refer(uri: str, folder: Path) -> "SetFolder":
    """A reference to a set, as a pipeline hands it to the step."""
    from distillery.data.store import SetReference, write_reference
    from distillery.step_table import SetFolder

    found = open_set(uri)
    write_reference(folder, SetReference(uri=found.store.uri, sha256=found.digest))
    return SetFolder(folder)


def _show(out: Path, numbers: Mapping[str, float]) -> None:
    from distillery.models.bundle import read_bundle

    screen = console()
    screen.print(f"{out}: {'  '.join(f'{name} {value:.4g}' for name, value in numbers.items())}", markup=False, soft_wrap=True)
    screen.print(f"sha256 {read_bundle(out)[1]}", soft_wrap=True)
