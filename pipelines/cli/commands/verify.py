"""`distillery verify`: every byte of a synthetic set against its manifest."""

from typing import Annotated

import typer

from distillery.grammar import counted
from distillery_kfp.pipelines.cli.sets import SET_HELP, open_set
from distillery_kfp.pipelines.cli.stores import size


def verify_set(where: Annotated[str, typer.Argument(metavar="SET", help=SET_HELP)]) -> None:
    """Read every shard of a set again, compare hash and counts with the manifest, and stop at the first damage."""
    found = open_set(where)
    found.verify()
    manifest = found.manifest
    num_bytes = sum(entry.bytes for entry in manifest.shards)
    typer.echo(
        f"{found.store.uri}: whole; {counted(len(manifest.shards), 'shard')}, {counted(manifest.images, 'image')} to train on, "
        f"{manifest.holdout:,} held out, {size(num_bytes)}, set {found.digest[:12]}"
    )
