"""Teacher and student of a run, tried as its steps will run them, before anything is trained."""

from pathlib import Path

from distillery.errors import ConfigError
from distillery.models.bundle import BundleInfo, load_classifier
from distillery.models.findings import judge
from distillery.models.trial import confirm, try_architecture
from distillery.recipes.schema import Recipe
from distillery.runtime import Runtime


def check_networks(recipe: Recipe, folder: Path, info: BundleInfo, runtime: Runtime, makes_images: bool = True) -> None:
    """Run both networks on images of their true size, forwards and backwards.

    A student of ours runs without memory and a teacher of ours not at all: it was tried at its import, and its code is this.

    Args:
        recipe: resolved.
        folder: the teacher's bundle.
        info: what it says.
        runtime: what the steps will run on, as far as it is known here.
        makes_images: whether the recipe's method will be run, which needs gradients of the teacher on its images.

    Raises:
        ConfigError: one of the networks fails, in one sentence.
    """
    try_architecture(recipe.student.architecture, info.spec, info.num_classes, runtime)
    name = info.architecture.name
    if ":" not in name:
        return
    found = confirm(load_classifier(folder).freeze(), name, runtime)
    judge(found, name)
    if makes_images and found.blocked:
        raise ConfigError(
            f"{recipe.method.title} makes images by the teacher's gradients, but {name} lets none through to them ({found.blocked}): "
            "import a network that does, or train a student on a set that exists with `distillery train-student --set-uri`."
        )
    if found.bfloat16:
        raise ConfigError(found.bfloat16)
