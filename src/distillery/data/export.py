"""A synthetic set in the formats that other tools read: a folder of PNGs a class, or WebDataset tars."""

import errno
import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.data.shards import Role
from distillery.data.store import SyntheticSet
from distillery.documents import Format
from distillery.errors import ConfigError, StoreError
from distillery.provenance import Provenance, code_version

FORMAT = Format("distillery-set-export", 2, "export the set again")
"""Version 1 was called distillery-export, as that of a student was."""
DOCUMENT = "export.json"
CLASSES = "classes.txt"

_CHANNELS = (1, 3)
_UNSAFE = re.compile(r"[^\w.+ -]")


class ExportConfig(Config):
    """What is written.

    Attributes:
        format: imagefolder is `<class>/<number>.png` by the teacher's argmax; webdataset is tars of png, cls, json and logits.npy.
        role: the images to train on, or those held out.
        shard_size: images of a tar.
    """

    format: Literal["imagefolder", "webdataset"]
    role: Role = "train"
    shard_size: int = Field(default=1000, ge=1)


class Sample(NamedTuple):
    """One image: its place in the set, (C, H, W) uint8, the class asked for (-1: none), the teacher's class and its (K,) logits."""

    number: int
    pixels: Tensor
    asked: int
    obtained: int
    logits: Tensor


def export_set(found: SyntheticSet, out: Path, config: ExportConfig, class_names: Sequence[str] = ()) -> int:
    """Write a set's images; the folder appears when it is whole, and equal sets give equal bytes.

    Args:
        found: the set; every shard is verified as it is read, and one is in memory at a time.
        out: a new or empty folder.
        config: format and role.
        class_names: the teacher's; without them the classes are numbered.

    Returns:
        How many images were written.

    Raises:
        ConfigError: images of neither 1 nor 3 channels, names that are not one a class, or no images of this role.
        StoreError: a damaged shard, or a folder that is not empty or cannot be written.
    """
    manifest = found.manifest
    if manifest.shape[0] not in _CHANNELS:
        raise ConfigError(
            f"Images of {manifest.shape[0]} channels cannot be exported as PNG: 1 and 3 channels can; read the shards instead."
        )
    if class_names and len(class_names) != manifest.num_classes:
        raise ConfigError(f"{len(class_names)} class names do not fit a set of {manifest.num_classes} classes: give the teacher's.")
    if not found.entries(config.role):
        raise ConfigError(f"The set {found.store.uri!r} has no images of the role {config.role!r}: export the other role.")
    names = tuple(class_names) or tuple(str(index) for index in range(manifest.num_classes))
    folders = folder_names(class_names, manifest.num_classes)
    with _new_folder(out) as fresh:
        samples = _samples(found, config.role)
        count = _write_folders(fresh, samples, folders) if config.format == "imagefolder" else _write_tars(fresh, samples, config)
        inputs = {"set": found.digest, "teacher": manifest.teacher_sha256}
        fields = {"export": config.to_json(), "images": count, "class_names": names}
        (fresh / DOCUMENT).write_bytes(FORMAT.write(Provenance(inputs=inputs, code_version=code_version()), fields))
        (fresh / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return count


def folder_names(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """One folder name a class: the class's own name where files can bear it, or its number, so wide that names sort as numbers do."""
    width = len(str(num_classes - 1))
    numbers = [f"{index:0{width}d}" for index in range(num_classes)]
    if not class_names:
        return tuple(numbers)
    safe = [_UNSAFE.sub("_", name).strip(" .") for name in class_names]
    folded = Counter(name.casefold() for name in safe)  # some file systems know no difference
    return tuple(
        name if name and folded[name.casefold()] == 1 else f"{name or 'class'}-{number}" for name, number in zip(safe, numbers, strict=True)
    )


def _samples(found: SyntheticSet, role: Role) -> Iterator[Sample]:
    number = 0
    for images, asked, logits in found.shards(role):
        for row in zip(images, asked.tolist(), logits.argmax(1).tolist(), logits, strict=True):
            yield Sample(number, *row)
            number += 1


def _write_folders(folder: Path, samples: Iterator[Sample], names: Sequence[str]) -> int:
    count = 0
    for sample in samples:
        place = folder / names[sample.obtained]
        place.mkdir(exist_ok=True)
        (place / f"{sample.number:08d}.png").write_bytes(_png(sample.pixels))
        count += 1
    return count


def _write_tars(folder: Path, samples: Iterator[Sample], config: ExportConfig) -> int:
    count = 0
    with ExitStack() as stack:
        for sample in samples:
            if count % config.shard_size == 0:
                stack.close()
                path = folder / f"{config.role}-{count // config.shard_size:06d}.tar"
                tar = stack.enter_context(tarfile.open(path, "w", format=tarfile.USTAR_FORMAT))
            for ending, data in _fields(sample).items():
                # a fresh TarInfo has no time, owner or group, so equal images give equal tars
                entry = tarfile.TarInfo(f"{sample.number:08d}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            count += 1
    return count


def _fields(sample: Sample) -> dict[str, bytes]:
    logits = io.BytesIO()
    np.save(logits, sample.logits.numpy())
    return {
        "png": _png(sample.pixels),
        "cls": str(sample.obtained).encode(),
        "json": json.dumps({"asked": sample.asked, "obtained": sample.obtained}).encode(),
        "logits.npy": logits.getvalue(),
    }


def _png(pixels: Tensor) -> bytes:
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, renamed to it when the block is through, and removed when it is not."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StoreError(f"{str(out)!r} exists and is not an empty folder: name a new or an empty one.")
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = out.parent / f".tmp-{secrets.token_hex(8)}"
        fresh.mkdir()
        try:
            yield fresh
            os.rename(fresh, out)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        reason = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise StoreError(f"Cannot write the export {str(out)!r} ({reason}): free space, or choose another folder.") from None
