"""Synthetic sets for tests of stores: shards of any size, made without a generator."""

from collections.abc import Sequence

import torch

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.reference import SetReference
from distillery.data.shards import Shard
from distillery.data.store import SetWriter
from distillery.provenance import Provenance
from distillery.storage import Store

SIDE = 64


def header(name: str = "one") -> SetHeader:
    """Of a set of (3, 64, 64) images in two classes."""
    return SetHeader(
        shape=(3, SIDE, SIDE),
        num_classes=2,
        teacher_sha256="7eac" * 16,
        provenance=Provenance(config={"name": name}, code_version="c"),
    )


def shard(number: int, images: int = 4) -> Shard:
    """A shard of noise, equal for equal numbers; an image has 12 KiB."""
    pixels = torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    return Shard(pixels, torch.zeros(images, dtype=torch.int64), torch.tensor([1.0, 0.0]).repeat(images, 1))


def write(store: Store, shards: int, images: int = 4, name: str = "one") -> SetWriter:
    """Write the shards of a set, which is not published yet."""
    writer = SetWriter(store, header(name))
    for number in range(shards):
        writer.append(*shard(number, images))
    return writer


def publish_set(writer: SetWriter, shortfall: Sequence[int] = ()) -> SetReference:
    """Make the shards that were written a set."""
    return publish_manifest(writer.store, writer.manifest(shortfall))


def publish(store: Store, shards: int, images: int = 4, name: str = "one") -> SetReference:
    """Write a set."""
    return publish_set(write(store, shards, images, name))
