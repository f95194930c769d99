"""`distillery export-student`: a student as files that are served without Distillery, and its model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillery_kfp.pipelines.cli.sets import SHA256_HELP, open_set
from distillery_kfp.pipelines.cli.stores import console

if TYPE_CHECKING:
    from distillery.models.export import ExportedFile

CARD = "model-card.md"


def export_student(
    bundle: Annotated[str, typer.Argument(help="The student's folder, or its URI in a store.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier export in it is replaced as a whole.")],
    format_: Annotated[list[str] | None, typer.Option("--format", help="pt2 or onnx; give it twice for both  \\[default: both].")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", help="float32 (pixels in 0 to 1) or uint8 (0 to 255)  \\[default: both].")
    ] = None,
    sha256: Annotated[str, typer.Option(help=SHA256_HELP)] = "",
    report: Annotated[Path | None, typer.Option(help="JSON of its evaluation, for the model card.")] = None,
    set_: Annotated[
        str, typer.Option("--set", help="The set it was trained on, for the model card; health.json in that folder is read too.")
    ] = "",
) -> None:
    """Write a student as pt2 and ONNX, normalisation inside, with a model card.

    Each file is run beside the bundle on random images before the folder appears.
    """
    from rich.table import Table

    from distillery.evaluation.health import FILE
    from distillery.models import export
    from distillery.models.bundle import local_bundle
    from distillery.reporting.card import model_card, open_sources

    with local_bundle(bundle, sha256) as folder:
        manifest = open_set(set_).manifest if set_ else None
        beside = Path(set_).expanduser() / FILE
        health = beside if set_ and beside.is_file() else None
        open_sources(folder, report, manifest, health)  # so that files of another student are refused before the long part

        def card(files: Mapping[str, "ExportedFile"]) -> Mapping[str, str]:
            hashes = {name: file.sha256 for name, file in files.items()}
            return {CARD: model_card(open_sources(folder, report, manifest, health, hashes))}

        files = export.export_student(folder, out, format_ or export.FORMATS, input_ or export.INPUTS, card)
    table = Table("file", "bytes", "differs from the bundle by", "sha256", box=None)
    for name, file in files.items():
        table.add_row(name, f"{file.bytes:,}", "" if file.difference is None else f"{file.difference:.1e}", file.sha256)
    console().print(table)
