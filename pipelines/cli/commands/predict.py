"""`distillery predict`: a first try of a bundle on a few pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from distillery.errors import ConfigError
from distillery_kfp.pipelines.cli.sets import SHA256_HELP
from distillery_kfp.pipelines.cli.stores import console


def predict(
    bundle: Annotated[str, typer.Argument(help="Student or teacher: the bundle's folder, or its URI in a store.")],
    images: Annotated[
        list[Path], typer.Argument(help="PNG, JPEG and others, folders of them, or npz with an array `images` of uint8 (N, C, H, W).")
    ],
    top: Annotated[int, typer.Option(help="Classes shown for each image.", min=1)] = 3,
    resize: Annotated[bool, typer.Option("--resize", help="Stretch pictures of another size instead of refusing them.")] = False,
    sha256: Annotated[str, typer.Option(help=SHA256_HELP)] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Name what a bundle sees in pictures: the likeliest classes with their probabilities.

    Grey pictures become RGB and the reverse where the bundle needs it; whatever was changed is told beside the picture.
    """
    import torch

    from distillery.config import canonical_json
    from distillery.data.pictures import find_pictures, read_pictures
    from distillery.evaluation.predict import predict as logits_of
    from distillery.models.bundle import VerifiedBundle, local_bundle

    with local_bundle(bundle, sha256) as folder:
        opened = VerifiedBundle(folder)
        classifier, found = opened.classifier, opened.sha256
    files, left_out = find_pictures(images)
    pictures = list(read_pictures(files, classifier.spec, resize))
    if not pictures:
        raise ConfigError(f"{', '.join(map(str, images))} holds no pictures: give at least one.")
    likely = logits_of(classifier, torch.stack([picture.pixels for picture in pictures])).softmax(1).topk(min(top, classifier.num_classes))
    rows: list[dict[str, Any]] = [
        {
            "image": picture.name,
            "changes": picture.changes,
            "classes": [
                {"name": classifier.class_names[index], "index": index, "probability": probability}
                for probability, index in zip(probabilities, indices, strict=True)
            ],
        }
        for picture, probabilities, indices in zip(pictures, likely.values.tolist(), likely.indices.tolist(), strict=True)
    ]
    if json_:
        typer.echo(canonical_json({"bundle_sha256": found, "images": rows, "skipped": left_out.names()}))
    else:
        _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    with_changes = any(row["changes"] for row in rows)
    table = Table("image", *(["changed"] if with_changes else []), *(f"class {place + 1}" for place in range(len(rows[0]["classes"]))))
    for row in rows:
        likely = [f"{escape(item['name'])} {item['probability']:.1%}" for item in row["classes"]]
        table.add_row(escape(row["image"]), *([row["changes"]] if with_changes else []), *likely)
    console().print(table)
