"""Images of every class inverted from a teacher, and what its layers see of each class: moments of classes without data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.api.arguments import Place, as_mapping, is_count, located, new_folder, recipe_source
from distillery.api.process import surroundings, visiting
from distillery.api.progress import silent
from distillery.api.running import new_run, run_pipeline
from distillery.api.sets import MaterializedSet
from distillery.data.reference import read_reference
from distillery.errors import ConfigError
from distillery.host import Watcher
from distillery.methods.catalog import METHODS
from distillery.models.allowance import allow_modules
from distillery.recipes.loader import apply_overrides, is_own_file, load_document, recipe_name, typed_modules
from distillery.recipes.schema import read_recipe
from distillery.step_table import STATISTICS_KIND


@dataclass(frozen=True)
class Inverted:
    """What an inversion left.

    Attributes:
        set: the images, a synthetic set as any other.
        statistics: one file of the teacher's moments of each class, measured on these images: what `distill` takes as `statistics`.
        seconds: what it took.
        run_id: names the run in its store, where `distillery runs` lists it.
    """

    set: MaterializedSet
    statistics: Path
    seconds: float
    run_id: str


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

    The data-free way to per-class statistics: nothing but the teacher is needed. It runs the pipeline `class_statistics` in this process. A
    call that was stopped goes on where it was when it is given again.

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
    folder, origin, run = new_folder(out), located(teacher, "teacher"), new_run()
    uri, source = located(store, "store") or str(folder / "store"), recipe_source(recipe)
    chosen = {**as_mapping(overrides, "overrides"), "kind": STATISTICS_KIND, "per_class": int(per_class)}
    form = {"run_overrides": chosen, "run_seed": seed, "run_recipe_uri" if is_own_file(source) else "run_recipe": source}
    places = {"statistics": folder / "statistics.safetensors", "set": folder / "set"}
    places["class_statistics"] = folder / "class-statistics.safetensors"
    began, variables = time.monotonic(), {**surroundings(uri, folder / "work", device, threads), "KFP_RUN_ID": run}
    with visiting(progress, variables), allow_modules(*typed_modules(chosen)):
        pipeline = _inverting(source, chosen)
        done = dict(run_pipeline(pipeline, form, {"teacher_uri": origin}, places.__getitem__))
    drawn, reference = done["materialize"], read_reference(places["set"])
    made = MaterializedSet(places["set"], reference.uri, reference.sha256, drawn.metrics, drawn.seconds)
    return Inverted(made, places["class_statistics"], time.monotonic() - began, run)


def _inverting(source: str, overrides: Mapping[str, Any]) -> str:
    """The pipeline of a recipe whose method makes images by itself.

    Raises:
        ConfigError: names the methods that do.
    """
    document = apply_overrides(load_document(source), overrides)
    if not document.get("synthesis"):
        ways = ", ".join(name for name, other in METHODS.items() if other.inverts)
        raise ConfigError(
            f"{recipe_name(source)} synthesizes nothing and inverts no images: give a recipe of one of {ways or 'none here'}."
        )
    return read_recipe(document).pipeline
