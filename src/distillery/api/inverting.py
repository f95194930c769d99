"""Images of every class inverted from a teacher, and what its layers see of each class: moments of classes without data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.api.arguments import Place, as_mapping, is_count, located, new_folder, recipe_source
from distillery.api.process import surroundings, visiting
from distillery.api.progress import silent
from distillery.api.running import run_step
from distillery.api.sets import MaterializedSet
from distillery.data.reference import read_reference
from distillery.errors import ConfigError
from distillery.host import Watcher
from distillery.methods.catalog import METHODS
from distillery.models.allowance import allow_modules
from distillery.models.bundle import VerifiedBundle
from distillery.recipes.loader import load_recipe, typed_modules
from distillery.recipes.schema import DistillationRecipe, Recipe
from distillery.recipes.sections import MaterializeSection, StatisticsSection, common_fields
from distillery.workbench.assembly import PlannedMethod
from distillery.workbench.planning import Given, check_expected, check_teacher, verify_teacher


@dataclass(frozen=True)
class Inverted:
    """What an inversion left.

    Attributes:
        set: the images, a synthetic set as any other.
        statistics: one file of the teacher's moments of each class, measured on these images: what `distill` takes as `statistics`.
        seconds: what it took.
    """

    set: MaterializedSet
    statistics: Path
    seconds: float


def invert(
    teacher: Place,
    recipe: Place,
    out: Place,
    per_class: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    store: Place = "",
    device: str = "",
    threads: int = 0,
    progress: Watcher = silent,
) -> Inverted:
    """Invert a number of images of every class from a teacher, and measure its moments of each class on them.

    The data-free way to per-class statistics: nothing but the teacher is needed. A call that was stopped goes on where it was when it is
    given again.

    Args:
        teacher: folder or URI of a bundle, or what `import_teacher` returned.
        recipe: of a method that optimises images, such as `deep_inversion/digits`; its method, settings and set are read, and no student.
        out: folder for the reference to the set and for `class-statistics.safetensors`.
        per_class: images of each class, as the teacher sees them, 2 or more; several hundred give stable moments.
        overrides: values of the recipe by dotted path.
        seed: of every random stream, from 0 to 2^53 - 1.
        store: folder or s3:// URI for the set and the checkpoints; "" is a folder in `out`.
        device: auto, cpu, cuda or cuda:N; "" leaves it to `DISTILLERY_DEVICE`, else auto.
        threads: CPU threads; 0 leaves them to `DISTILLERY_THREADS`, else torch's choice.
        progress: told how far the work is, such as `TextProgress()`.

    Raises:
        DistilleryError: a method that makes no images by itself, a teacher that does not fit the recipe, a class that got no images.

    Source: the data-free statistics of LS-GDFD, arXiv:2012.05578, measured on images as of arXiv:1912.08795.
    """
    if not is_count(per_class, 2):
        raise ConfigError(f"per_class = {per_class!r} is not allowed: give a whole number from 2 on, several hundred for stable moments.")
    chosen = as_mapping(overrides, "overrides")
    folder, origin = new_folder(out), located(teacher, "teacher")
    uri = located(store, "store") or str(folder / "store")
    began = time.monotonic()
    with visiting(progress, surroundings(uri, folder / "work", device, threads)), allow_modules(*typed_modules(chosen)):
        found = load_recipe(recipe_source(recipe), chosen)
        inverting = _inverting(found)
        bundle = verify_teacher(origin, "")
        check_expected(inverting, bundle.info)
        check_teacher(inverting, bundle.info, Given())
        statistics, materialize = _sections(inverting, bundle, seed, per_class)
        places = {"statistics": folder / "statistics.safetensors", "set": folder / "set"}
        given = {"teacher_uri": origin}
        if PlannedMethod.parse(materialize.method, materialize.method_config, places["statistics"]).statistics_path:
            run_step("extract_statistics", statistics.to_json(), places, given)
        drawn = time.monotonic()
        metrics = run_step("materialize", materialize.to_json(), places, given)
        reference = read_reference(places["set"])
        made = MaterializedSet(places["set"], reference.uri, reference.sha256, metrics, time.monotonic() - drawn)
        measured = {"statistics": folder / "class-statistics.safetensors"}
        by_class = statistics.model_copy(update={"kind": "per_class"})
        run_step("extract_statistics", by_class.to_json(), measured, {**given, "set_uri": reference.uri})
    return Inverted(made, measured["statistics"], time.monotonic() - began)


def _sections(
    recipe: DistillationRecipe, teacher: VerifiedBundle, seed: int, per_class: int
) -> tuple[StatisticsSection, MaterializeSection]:
    """What the two steps are asked: all images are measured on, so none is held out."""
    common = common_fields(seed, teacher.sha256, recipe.precision, teacher.info.architecture)
    drawn = {**recipe.set.to_json(), "size": per_class * teacher.info.num_classes, "holdout": 0.0}
    method = {"method": recipe.synthesis.method, "method_config": recipe.synthesis.config}
    own = {**method, "set": drawn, "health": recipe.health.to_json()}
    return StatisticsSection.parse(common, "statistics"), MaterializeSection.parse({**common, **own}, "materialize")


def _inverting(recipe: Recipe) -> DistillationRecipe:
    """The recipe, unless it makes no images by itself.

    Raises:
        ConfigError: names the methods that do.
    """
    if isinstance(recipe, DistillationRecipe) and recipe.method.inverts:
        return recipe
    ways = ", ".join(name for name, other in METHODS.items() if other.inverts)
    why = (
        f"{recipe.method.name} {'trains a generator' if recipe.method.target == 'generator' else 'needs a student to play against'}"
        if isinstance(recipe, DistillationRecipe)
        else "A recipe of kind student synthesizes nothing"
    )
    raise ConfigError(f"{why} and inverts no images: give a recipe of one of {ways or 'none here'}.")
