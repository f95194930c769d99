"""`distillery inspect`: what a synthetic set holds, and whether it has collapsed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillery.errors import ConfigError
from distillery_kfp.pipelines.cli.sets import SET_HELP, open_set, open_teacher
from distillery_kfp.pipelines.cli.stores import console

if TYPE_CHECKING:
    from distillery.data.shards import Shard
    from distillery.data.store import SyntheticSet
    from distillery.evaluation.health import HealthConfig
    from distillery.reporting.inspection import SetSummary


_GRID_ROWS = 100


def inspect_set(
    where: Annotated[str, typer.Argument(metavar="SET", help=SET_HELP)],
    teacher: Annotated[
        str, typer.Option(metavar="BUNDLE", help="Its teacher: names the classes, and compares images by penultimate features.")
    ] = "",
    grid: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw images, a row a class.")] = None,
    sample: Annotated[int, typer.Option(help="Training images that are looked at; 0 is the recipe's number.", min=0)] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what a synthetic set holds: classes asked and obtained, confidence, near-duplicates, and what is wrong with it."""
    from distillery.config import canonical_json
    from distillery.reporting.inspection import class_table, facts_table

    summary, images = _summarize(where, teacher, sample)
    if grid:
        rows = _draw(grid, images)
    if json_:
        typer.echo(canonical_json(summary.to_json()))
        return
    shown = console()
    shown.print(class_table(summary))
    shown.print(facts_table(summary))
    if grid:
        shown.print(f"{grid}: a row a class, {rows:,} of {len(summary.counts):,} classes", markup=False, soft_wrap=True)


def _summarize(where: str, teacher: str, sample: int) -> "tuple[SetSummary, Shard]":
    from distillery.data.shards import sample_shards
    from distillery.evaluation.features import LOGITS, Features, penultimate
    from distillery.evaluation.health import measure_health
    from distillery.reporting.inspection import SetSummary
    from distillery.seeding import stream

    classifier, sha256 = open_teacher(teacher) if teacher else (None, "")
    found = open_set(where, sha256)
    if not found.manifest.images:
        raise ConfigError(f"The set {found.store.uri!r} has no training images, so there is nothing to inspect: materialize another.")
    config = _thresholds(found)
    if sample:
        config = config.model_copy(update={"sample": max(sample, 2)})
    images = sample_shards(found.store, found.entries("train"), config.sample, stream(0, "health"))
    features = penultimate(classifier, images.images) if classifier else Features(images.teacher_logits, LOGITS)
    health = measure_health(found.manifest.counts, images.teacher_logits, features, config)
    return SetSummary.of(found, images.teacher_logits, health, classifier.class_names if classifier else ()), images


def _thresholds(found: "SyntheticSet") -> "HealthConfig":
    """Those of the recipe that made the set, where its provenance names them."""
    from distillery.evaluation.health import HealthConfig

    try:
        return HealthConfig.parse(found.manifest.provenance.config.get("health", {}))
    except ConfigError:  # of a set made by other code
        return HealthConfig()


def _draw(path: Path, images: "Shard") -> int:
    """Draw images of each class, of the first hundred where there are more; returns of how many."""
    from distillery.reporting.grid import class_grid
    from distillery.storage import FolderStore

    answers = images.teacher_logits.argmax(1)
    rows = min(images.teacher_logits.shape[1], _GRID_ROWS)
    drawn = answers < rows
    FolderStore(path.absolute().parent).write(path.name, class_grid(images.images[drawn], answers[drawn], rows))
    return rows
