"""`distillery export`: a synthetic set for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from distillery.grammar import counted
from distillery_kfp.pipelines.cli.sets import SET_HELP, open_set


def export_images(
    where: Annotated[str, typer.Argument(metavar="SET", help=SET_HELP)],
    format_: Annotated[str, typer.Option("--format", help="imagefolder: PNGs in a folder a class; webdataset: tars.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    role: Annotated[str, typer.Option(help="train, or holdout: the images that no student trained on.")] = "train",
    shard_size: Annotated[int, typer.Option(help="Images of a tar.")] = 1000,
    teacher: Annotated[str, typer.Option(metavar="BUNDLE", help="Its teacher, whose class names the folders get; else numbers.")] = "",
) -> None:
    """Write a set as PNGs a class or as WebDataset tars; classes are the teacher's argmax."""
    from distillery.data.export import ExportConfig, export_set

    config = ExportConfig.parse({"format": format_, "role": role, "shard_size": shard_size}, "export")
    names, sha256 = _teacher(teacher) if teacher else ((), "")
    count = export_set(open_set(where, sha256), out.expanduser().absolute(), config, names)
    typer.echo(f"{out}: {counted(count, 'image')}, {config.format}, {config.role}")


def _teacher(uri: str) -> tuple[tuple[str, ...], str]:
    from distillery_kfp.pipelines.cli.sets import open_teacher

    classifier, sha256 = open_teacher(uri)
    return classifier.class_names, sha256
