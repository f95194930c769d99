"""What every file that we write says about its origin: a format, a version, and one shared provenance block."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from distillery.config import Config
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.step_version import digest_parts

_CHUNK = 1 << 20
_HEADER = ("format", "version", "provenance")


class Provenance(Config):
    """Origin of a file: equal work gives an equal block, so no time, host, image or path stands in it.

    Attributes:
        inputs: sha256 of everything the file was made from, by name.
        config: the resolved configuration section.
        seeds: seeds by the name of their stream.
        code_version: `code_version()` of the code that wrote the file.
        step_version: `step_version()` of the step that wrote it; "" where none did.
        packages: version of each package whose code the step ran beside ours, by name.
    """

    inputs: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    code_version: str
    step_version: str = ""
    packages: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The block as plain JSON values; what only steps know is left out by everybody else."""
        fields = super().to_json()
        return {name: value for name, value in fields.items() if value or name not in ("step_version", "packages")}


def sha256_bytes(data: bytes) -> str:
    """sha256 of bytes, as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces.

    Raises:
        MissingResourceError: there is no such file.
        StoreError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingResourceError(f"There is no file {str(path)!r}: check the path.") from None
    except OSError as error:
        raise StoreError(f"The file {str(path)!r} cannot be read ({error.strerror}): check its permissions.") from None
    return digest.hexdigest()


def check_pinned(what: str, found: str, pinned: str) -> None:
    """Refuse bytes that are no longer those that a run was planned on.

    Args:
        what: a noun phrase that names them and where they lie, in the singular.
        found: their sha256 now.
        pinned: their sha256 as the plan saw it.

    Raises:
        CheckpointMismatchError: names both.
    """
    if found != pinned:
        raise CheckpointMismatchError(f"{what} is {found[:12]} and was {pinned[:12]} when the run was planned: plan it again.")


@cache
def code_version() -> str:
    """sha256 over the sources of the installed package, taken once a process; it says who wrote a file, and names no work."""
    return hash_sources(Path(__file__).parent)


def hash_sources(folder: Path) -> str:
    """sha256 over every *.py and *.yaml below a folder, by sorted relative path.

    Each path and each content is preceded by its length, so that moving bytes between a name and a file changes the hash.
    """
    return digest_parts(part for name, path in sorted(_sources(folder)) for part in (name.encode(), path.read_bytes()))


def stamp(format: str, version: int, provenance: Provenance, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A document of ours: `format`, `version`, the fields, and `provenance`.

    Args:
        format: name of the format, such as "distillery-set".
        version: its version, 1 or more.
        provenance: where the document comes from.
        fields: everything else, plain JSON values; none may be called format, version or provenance.
    """
    assert not set(fields) & set(_HEADER), f"fields may not be called {_HEADER}"
    return {"format": format, "version": version, **fields, "provenance": provenance.to_json()}


def check_format(document: object, format: str, newest: int, where: str) -> None:
    """Refuse a document of another format, or of a newer version than this code reads.

    Args:
        document: the parsed document.
        format: the format it must have.
        newest: the newest version that this code reads.
        where: path or key of the document, for the message.

    Raises:
        CheckpointMismatchError: one sentence that says which of the two it is.
    """
    found = document.get("format") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or found != format:
        said = f"it says {found!r}" if found is not None else "it names no format"
        raise CheckpointMismatchError(f"{where} is not a {format} file ({said}): give one that Distillery wrote as {format}.")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointMismatchError(f"{where} has version {version!r}, but a {format} version is an integer from 1: write it again.")
    if version > newest:
        raise CheckpointMismatchError(
            f"{where} is {format} version {version}, but this Distillery reads up to version {newest}: upgrade Distillery to read it."
        )


def dump_json(document: object) -> bytes:
    """JSON as we store it: sorted keys, two spaces of indent, a newline at the end; equal documents give equal bytes."""
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def load_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a stored JSON object.

    Args:
        data: the bytes.
        where: path or key of the document, for the message.

    Raises:
        StoreError: the bytes are not a JSON object.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # a JSONDecodeError or a UnicodeDecodeError; or brackets a thousand deep
        document = None
    if not isinstance(document, dict):
        raise StoreError(f"{where} is not a JSON object, so it is damaged or no file of ours: fetch or write it again.")
    return document


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        if path.suffix in (".py", ".yaml") and path.is_file():
            yield path.relative_to(folder).as_posix(), path
