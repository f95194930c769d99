"""BatchNorm moments of a teacher: the value, and its file format `distillery-moments`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from distillery.config import Config
from distillery.documents import Document, Format
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import open_store
from distillery.tensor_files import payload, read_document, read_tensors, write_tensors

FORMAT = Format("distillery-moments", 2, "extract the statistics again")
"""1 holds no hash of itself, but one of its tensors' bytes."""
Kind = Literal["global", "per_class"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of the input of each BatchNorm2d of one teacher.

    Attributes:
        kind: global, one row for the whole training set; or per_class, one row a class.
        mean: module path -> (C,) where global, (K, C) where per class.
        variance: the same shapes. Unbiased (divided by n - 1) as torch accumulates `running_var`; losses that take the biased
            variance of a batch meet a factor n / (n - 1).
        teacher_sha256: the bundle the moments belong to.
        counts: (K,) int64 images each class was measured on; None where global.
    """

    kind: Kind
    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    teacher_sha256: str
    counts: Tensor | None = None

    def select(self, labels: Tensor) -> Self:
        """The targets of groups of images, one group a label.

        Args:
            labels: (G,) int64 in [0, K), the class of each group; not checked, which would make the device wait.

        Returns:
            Moments of kind per_class whose tensors are (G, C): the row of each label, or the same global row for all.
        """
        if self.kind == "global":
            rows = len(labels)
            return replace(self, kind="per_class", mean=_expand(self.mean, rows), variance=_expand(self.variance, rows))
        mean = {path: value[labels.to(value.device)] for path, value in self.mean.items()}
        variance = {path: value[labels.to(value.device)] for path, value in self.variance.items()}
        counts = None if self.counts is None else self.counts[labels.to(self.counts.device)]
        return replace(self, mean=mean, variance=variance, counts=counts)

    def to(self, device: torch.device | str) -> Self:
        """The same moments with every tensor on `device`."""
        mean = {path: value.to(device) for path, value in self.mean.items()}
        variance = {path: value.to(device) for path, value in self.variance.items()}
        return replace(self, mean=mean, variance=variance, counts=None if self.counts is None else self.counts.to(device))


def save_moments(path: Path, moments: Moments, provenance: Provenance) -> str:
    """Write moments atomically; equal moments give equal bytes.

    One safetensors file: tensors `mean/PATH`, `variance/PATH` and, per class, `counts`; its `__metadata__` holds one entry `distillery`,
    a JSON document with format, version, kind, layers (in the network's order, which safetensors does not keep), teacher_sha256,
    provenance and the hash of the whole file.

    Args:
        path: the file to write.
        moments: what to write.
        provenance: what the moments were made from.

    Returns:
        sha256 of the file.
    """
    tensors = {f"mean/{name}": value for name, value in moments.mean.items()}
    tensors |= {f"variance/{name}": value for name, value in moments.variance.items()}
    if moments.counts is not None:
        tensors["counts"] = moments.counts
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    fields = {
        "kind": moments.kind,
        "layers": list(moments.mean),
        "teacher_sha256": moments.teacher_sha256,
    }
    data = write_tensors(FORMAT, provenance, fields, tensors)
    open_store(str(path.parent)).write(path.name, data)
    return sha256_bytes(data)


def load_moments(path: Path, teacher_sha256: str) -> Moments:
    """Read moments and verify that they belong to a teacher.

    Args:
        path: a file written by `save_moments`.
        teacher_sha256: the teacher in use.

    Raises:
        MissingResourceError: no such file.
        StoreError: bytes that are no safetensors file or fail their hash.
        CheckpointMismatchError: another format, a newer version, or another teacher's moments.
    """
    if not path.is_file():
        raise MissingResourceError(f"There are no moments at {path}: run the extract-statistics step for this teacher first.")
    return parse_moments(path.read_bytes(), str(path), teacher_sha256)[0]


def parse_moments(data: bytes, path: str, teacher_sha256: str) -> tuple[Moments, Provenance]:
    """As `load_moments`, of a file that has been read, and what it was made from.

    Args:
        data: its bytes.
        path: where they were, for messages.
        teacher_sha256: the teacher in use.

    Raises:
        StoreError: bytes that are no safetensors file or fail their hash.
        CheckpointMismatchError: another format, a newer version, or another teacher's moments.
    """
    document, tensors = read_tensors(FORMAT, data, path)
    header = document.parse(_Header)
    if header.teacher_sha256 != teacher_sha256:
        raise CheckpointMismatchError(
            f"The moments at {path} belong to teacher {header.teacher_sha256[:12]}, but the teacher in use is {teacher_sha256[:12]}: "
            "extract the statistics of this teacher."
        )
    if _is_damaged(document, data) or header.names() != set(tensors):
        raise StoreError(f"The tensors in {path} do not match their sha256: the file is damaged, extract the statistics again.")
    mean = {layer: tensors[f"mean/{layer}"] for layer in header.layers}
    variance = {layer: tensors[f"variance/{layer}"] for layer in header.layers}
    return Moments(header.kind, mean, variance, teacher_sha256, tensors.get("counts")), document.provenance


def read_origin(path: Path) -> Provenance:
    """What a file that `load_moments` takes was made from."""
    return read_document(FORMAT, path.read_bytes(), str(path)).provenance


class _Header(Config):
    kind: Kind
    layers: tuple[str, ...]
    teacher_sha256: str
    tensors_sha256: str = ""

    def names(self) -> set[str]:
        """The tensors that must be in the file."""
        counts = {"counts"} if self.kind == "per_class" else set()
        return {f"{value}/{layer}" for value in ("mean", "variance") for layer in self.layers} | counts


def _expand(values: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {path: value.expand(rows, -1) for path, value in values.items()}


def _is_damaged(document: Document, data: bytes) -> bool:
    """Whether the tensors of a file of the first version fail their hash; of later ones all bytes have passed already."""
    return document.version == 1 and document.fields.get("tensors_sha256") != sha256_bytes(payload(data))
