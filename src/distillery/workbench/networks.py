"""Teacher and student of a run, tried as its steps will run them, before anything is trained."""

import torch

from distillery.errors import ConfigError
from distillery.models.bundle import BundleInfo, VerifiedBundle
from distillery.models.catalog import Architecture, build_network
from distillery.models.findings import judge
from distillery.models.trial import confirm, try_architecture
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.schema import DistillationRecipe, Recipe, StudentRecipe, StudentsRecipe
from distillery.runtime import Runtime
from distillery.seeding import seeded
from distillery.students.check import check_stages, looks_inside
from distillery.types import Classifier, MemoryFormat


def check_networks(recipe: Recipe, teacher: VerifiedBundle, runtime: Runtime, makes_images: bool = True) -> None:
    """Run both networks on images of their true size, forwards and backwards.

    A student of ours runs without memory and a teacher of ours not at all: it was tried at its import, and its code is this.

    Args:
        recipe: resolved.
        teacher: its bundle.
        runtime: what the steps will run on, as far as it is known here.
        makes_images: whether the recipe's method will be run, which needs gradients of the teacher on its images.

    Raises:
        ConfigError: one of the networks fails, or a stage of the student's plan names layers that are not there or do not fit, in one
            sentence.
    """
    info = teacher.info
    if not isinstance(recipe, StatisticsRecipe):
        _check_student(recipe, info, runtime, makes_images)
    name = info.architecture.name
    if ":" not in name:
        return
    found = confirm(teacher.classifier, name, runtime)
    judge(found, name)
    if (
        makes_images
        and found.blocked
        and not isinstance(recipe, StudentRecipe)
        and (isinstance(recipe, DistillationRecipe) or recipe.inverts)
    ):
        raise ConfigError(
            f"{recipe.method.title} makes images by the teacher's gradients, but {name} lets none through to them ({found.blocked}): "
            "import a network that does, or train a student on a set that exists with `distillery train-student --images`."
        )
    if found.bfloat16:
        raise ConfigError(found.bfloat16)


def _check_student(recipe: StudentsRecipe, info: BundleInfo, runtime: Runtime, makes_images: bool) -> None:
    names = recipe.student.class_names(info.class_names)
    order = try_architecture(recipe.student.architecture, info.spec, len(names), runtime)
    if looks_inside(recipe.student.stages) or recipe.student.classes:
        check_stages(recipe.student.stages, *_built(recipe, info, runtime, order))
    if makes_images and isinstance(recipe, DistillationRecipe) and recipe.method.target == "images":
        teacher_alike, student = _built(recipe, info, runtime, order)
        recipe.settings.check_networks(teacher_alike.eval(), student.freeze().eval())


def _built(recipe: StudentsRecipe, info: BundleInfo, runtime: Runtime, order: MemoryFormat) -> tuple[Classifier, Classifier]:
    """Networks to try things on: ours without memory; where one is foreign, whose factory may not know that, both as they are."""
    names = info.class_names, recipe.student.class_names(info.class_names)
    networks = (info.architecture, info.memory_format, names[0]), (recipe.student.architecture, order, names[1])
    ours = not any(":" in architecture.name for architecture, *_ in networks)

    def build(architecture: Architecture, order: MemoryFormat, classes: tuple[str, ...]) -> Classifier:
        with seeded(0, "trial"), torch.device("meta" if ours else "cpu"):
            classifier = Classifier(build_network(architecture, info.spec, len(classes)), info.spec, classes, order)
        return classifier if ours else runtime.place(classifier)

    teacher, student = (build(*network) for network in networks)
    return teacher.freeze(), student
