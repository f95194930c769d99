"""Moments of each class between runs: kept in the store by the run that measured them, opened by the plan and the steps of a later one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.provenance import sha256_bytes, sha256_file
from distillery.statistics.moments import Moments, parse_moments
from distillery.storage import Store, read_uri
from distillery.workbench.lineage import class_statistics_of

FIELD = "synth_statistics_uri"


@dataclass(frozen=True, eq=False)
class GivenMoments:
    """A file of moments that a run is given.

    Attributes:
        uri: where it lies.
        digest: sha256 of the file.
        moments: what it holds.
        measured_on: "data" where its moments of classes were measured on labelled real images, "set" where on a synthetic set; "" where
            they are the teacher's own.
    """

    uri: str
    digest: str
    moments: Moments
    measured_on: str

    @property
    def by_class(self) -> bool:
        """Whether the moments are those of each class."""
        return self.moments.kind == "per_class"

    def section(self) -> dict[str, Any]:
        """What the section of the step that takes them up says of them."""
        return {"kind": self.moments.kind, "given_sha256": self.digest, "measured_on": self.measured_on}


def keep_class_statistics(store: Store, path: Path) -> str:
    """Copy a file of moments into a store, where it is written anew if it is not there byte for byte, and return its key.

    May be repeated, and two may do it at once: the file is called after what is in it.

    Args:
        store: of the run.
        path: of the file.
    """
    sha256 = sha256_file(path)
    key = class_statistics_of(sha256)
    if not store.holds(key, path.stat().st_size, sha256):
        store.write_file(key, path, sha256)
    return key


def open_moments(uri: str, teacher_sha256: str, class_names: tuple[str, ...]) -> GivenMoments:
    """Read a file of moments and refuse one that is not of this teacher.

    Args:
        uri: a path, or a URI that ends in the file's name.
        teacher_sha256: the teacher in use.
        class_names: its classes.

    Raises:
        CheckpointMismatchError: moments of another teacher.
        ConfigError: no file's name; a class without moments; another number of classes.
        MissingResourceError: no such file.
        StoreError: damaged bytes.
    """
    data = read_uri(uri)
    moments, origin = parse_moments(data, uri, teacher_sha256)
    if moments.counts is not None:
        _check_classes(moments.counts.tolist(), uri, class_names)
    measured_on = next((name for name in ("data", "set") if name in origin.inputs), "")
    return GivenMoments(uri, sha256_bytes(data), moments, measured_on)


def _check_classes(counts: list[int], uri: str, class_names: tuple[str, ...]) -> None:
    if len(counts) != len(class_names):
        raise ConfigError(
            f"The moments at {uri!r} are of {len(counts)} classes, but the teacher has {len(class_names)}: extract its statistics again."
        )
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise ConfigError(
            f"The moments at {uri!r} hold none of class {', '.join(empty[:5])}: give statistics that were measured on images of every "
            f"class as {spoken(FIELD)}."
        )
