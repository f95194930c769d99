"""A compiled pipeline as it is registered: how it is called, which intermediate representation (IR) it is, and what its run form takes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from distillery.config import canonical_json
from distillery.errors import ConfigError, MissingResourceError
from distillery.provenance import sha256_bytes
from distillery_kfp.pipelines.compiled import documents_of, read_file
from distillery_kfp.pipelines.deployment import PLACEHOLDER_HOST
from distillery_kfp.pipelines.form import profiles_of

LARGEST_BYTES = 32 * 2**20
"""That the server takes of a package."""
LONGEST_VERSION = 127
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,126}[a-z0-9])?")
_RELEASE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class PipelinePackage:
    """One file of `distillery compile`.

    Attributes:
        name: of its pipeline on the server.
        data: the file.
        sha256: of the IR, over both of its documents as canonical JSON: comments and layout make no other version.
        description: what the pipeline does.
        parameters: what its run form takes, as the IR has it: name -> parameterType, defaultValue, isOptional, literals.
        profiles: profiles of nodes that it brings along, by name.
    """

    name: str
    data: bytes
    sha256: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Any] = field(default_factory=dict)

    def version(self, release: str) -> str:
        """The name of its version on the server: pipeline, release and the beginning of the IR's hash."""
        return f"{self.name}-{release}-{self.sha256[:12]}"


def own_release() -> str:
    """The release that versions are called after where none is given: that of this installation."""
    return metadata.version("distillery").replace("+", "-")


def check_release(release: str) -> str:
    """Refuse a release that could not stand in the name of a version.

    Raises:
        ConfigError: names what is allowed.
    """
    if not _RELEASE.fullmatch(release):
        raise ConfigError(f"--release {release!r} is not allowed: give up to 40 small letters, digits, dots and hyphens, such as 1.4.0.")
    return release


def read_packages(places: Sequence[Path]) -> dict[str, PipelinePackage]:
    """Packages by the names of their pipelines.

    Args:
        places: files, and folders of which every .yaml file is one.

    Raises:
        MissingResourceError: a file or folder is not there, or a folder holds no package.
        ConfigError: a file is no compiled pipeline, or two are the same pipeline.
    """
    found: dict[str, PipelinePackage] = {}
    for place in places:
        files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not files:
            raise MissingResourceError(f"There is no package in {str(place)!r}: give the folder that `distillery compile --out` wrote.")
        for file in files:
            package = read_package(file)
            if package.name in found:
                raise ConfigError(f"Two of the packages are the pipeline {package.name!r}: give one of them.")
            found[package.name] = package
    return found


def read_package(path: Path) -> PipelinePackage:
    """Read a compiled pipeline.

    Raises:
        MissingResourceError: there is no such file.
        ConfigError: it is no compiled pipeline, too large, or names images that are nobody's.
    """
    data = read_file(path)
    if len(data) > LARGEST_BYTES:
        raise ConfigError(f"The package {str(path)!r} has {len(data):,} bytes: Kubeflow takes at most {LARGEST_BYTES:,}.")
    documents = documents_of(data, path)
    info, root = documents[0]["pipelineInfo"], documents[0]["root"]
    name = str(info["name"])
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"The pipeline {name!r} in {str(path)!r} cannot be registered: its name may have 128 small letters, digits and hyphens."
        )
    text = canonical_json(documents)
    if f'"image":"{PLACEHOLDER_HOST}/' in text:
        raise ConfigError(
            f"The package {str(path)!r} names images at {PLACEHOLDER_HOST}, which is nobody's: compile it with --registry or --images."
        )
    parameters = root.get("inputDefinitions", {}).get("parameters", {})
    return PipelinePackage(name, data, sha256_bytes(text.encode()), str(info.get("description", "")), parameters, profiles_of(documents[0]))
