"""`distillery train-student`: the one step alone, in this process: a recipe's student on a set, on real images or on a live synthesizer."""

from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery.environment import environment
from distillery_kfp.pipelines.cli import options
from distillery_kfp.pipelines.cli.stores import console, workdir_of

if TYPE_CHECKING:
    from distillery.recipes.schema import StudentsRecipe
    from distillery.step_table import SetFolder


def train_student(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="Whose student to train; its synthesis is not run.")],
    teacher: Annotated[str, typer.Option(metavar="BUNDLE", help="The teacher's folder, or its URI in a store.")],
    out: Annotated[Path, typer.Option(help="Folder for the student's bundle.")],
    images: options.SourceImages = "",
    synthesizer: options.SourceSynthesizer = None,
    statistics: options.SourceStatistics = None,
    student_method: options.StudentMethod = "",
    student_start: options.StudentStart = "",
    ood: options.StageOod = "",
    set_: options.Assignments = None,
    seed: options.Seed = 0,
    device: options.Device = "",
    threads: options.Threads = 0,
    workdir: options.StepWorkdir = "",
) -> None:
    """Train a recipe's student on one source: a set, real images, or a live synthesizer.

    It is one step of `distillery run`, which also evaluates and registers, with `--images` and a recipe that only trains a student.
    Labels of real images are read where an objective looks at them. A live synthesizer has no size: an epoch that names no steps is as
    long as a pass over the recipe's set. A set has held-out images, real ones have where the recipe's data.holdout says so; else the last
    epoch is the student. The same command goes on where it was stopped.
    """
    from distillery.recipes.loader import parse_assignments
    from distillery.recipes.schema import read_recipe, training
    from distillery.recipes.student_plans import changed_document
    from distillery.step_table import StatisticsFile, StudentFolder, SynthesizerFolder
    from distillery.steps.train_student import Inputs, Outputs, run
    from distillery.workbench.sources import only_one

    only_one({"--images": images, "--synthesizer": synthesizer})
    out, folder = out.expanduser().absolute(), workdir_of(str(out), workdir)
    _check_folders(out, folder)
    chosen = {"DISTILLERY_WORKDIR": str(folder), "DISTILLERY_DEVICE": device, "DISTILLERY_THREADS": str(threads or "")}
    with environment({**chosen, "DISTILLERY_FOLDER_STORE": "1"}):
        planned = training(read_recipe(changed_document(recipe, student_method, parse_assignments(set_ or []))))
        section = _plan(planned, teacher, seed, synthesizer, ood, student_start)
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            inputs = Inputs(
                teacher_uri=teacher,
                set=_open(images, planned, teacher, Path(beside) / "set") if images else None,
                synthesizer=SynthesizerFolder(synthesizer) if synthesizer else None,
                statistics=StatisticsFile(statistics) if statistics else None,
                synth_ood_uri=ood,
                student_start_uri=student_start,
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


def _plan(recipe: "StudentsRecipe", teacher_uri: str, seed: int, synthesizer: Path | None, ood_uri: str, start_uri: str) -> dict[str, Any]:
    """The step's section, checked against the teacher as a run's plan would."""
    from distillery.recipes.sections import StudentSection, common_fields
    from distillery.synthesis.bundle import describe_synthesizer, list_synthesizers
    from distillery.workbench.bench import runtime_here
    from distillery.workbench.networks import check_networks
    from distillery.workbench.planning import check_begun, check_expected, open_ood, open_ood_of_trained, verify_teacher
    from distillery.workbench.weights import open_weights

    live = synthesizer is not None
    teacher = verify_teacher(teacher_uri, "")
    check_expected(recipe, teacher.info)
    weights = open_weights(start_uri, recipe.student, teacher.info)
    check_begun(recipe, weights)
    check_networks(recipe, teacher, runtime_here(recipe.precision), makes_images=live)
    stages, spec = recipe.student.stages, teacher.info.spec
    made = describe_synthesizer(list_synthesizers(synthesizer)[0], teacher.sha256) if synthesizer else None
    ood = open_ood_of_trained(ood_uri, stages, made, spec) if made else open_ood(ood_uri, stages, 0, spec)
    section = {
        **common_fields(seed, teacher.sha256, recipe.precision, teacher.info.architecture, recipe.student.architecture),
        "student": _sized(recipe) if live else recipe.student,
        "ood_sha256": ood.digest if ood else "",
        "student_start_sha256": weights.sha256 if weights else "",
        "holdout": 0 if live else _holdout(recipe),
    }
    return StudentSection.parse(section, "student").to_json()


def _sized(recipe: "StudentsRecipe") -> Any:
    """The recipe's student for images without end; where a recipe makes no set, its stages name their steps."""
    from distillery.recipes.schema import DistillationRecipe

    if not isinstance(recipe, DistillationRecipe):
        return recipe.student
    return recipe.student.model_copy(update={"stages": tuple(stage.sized(recipe.set.size) for stage in recipe.student.stages)})


def _holdout(recipe: "StudentsRecipe") -> float:
    """The share of real images that is withheld, where a recipe says one."""
    from distillery.recipes.schema import StudentRecipe

    return recipe.data.holdout if isinstance(recipe, StudentRecipe) else 0.0


def _open(uri: str, recipe: "StudentsRecipe", teacher_uri: str, folder: Path) -> "SetFolder":
    """The reference that a pipeline's step before this one would hand on."""
    from distillery.provenance import Provenance, code_version
    from distillery.recipes.schema import StudentRecipe
    from distillery.step_table import SetFolder
    from distillery.students.check import check_classes, check_labels
    from distillery.workbench.given import absolute, open_source, refer_to, wants_labels
    from distillery.workbench.planning import verify_teacher

    bundle = verify_teacher(teacher_uri, "")
    choice = recipe.data.labels if isinstance(recipe, StudentRecipe) else "auto"
    names = recipe.student.class_names(bundle.info.class_names)
    found = open_source(absolute(uri), bundle.info, bundle.sha256, names, wants_labels(recipe.student, choice), _holdout(recipe))
    if not found.labelled:
        check_labels(recipe.student.stages)
        check_classes(recipe.student)
    refer_to(found, bundle.info, folder, Provenance(inputs={"teacher": bundle.sha256, **found.inputs}, code_version=code_version()))
    return SetFolder(folder)


def _show(out: Path, numbers: Mapping[str, float]) -> None:
    from distillery.models.bundle import read_bundle

    screen = console()
    screen.print(f"{out}: {'  '.join(f'{name} {value:.4g}' for name, value in numbers.items())}", markup=False, soft_wrap=True)
    screen.print(f"sha256 {read_bundle(out)[1]}", soft_wrap=True)
