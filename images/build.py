"""Build the images of images.yaml, say what they weigh, and write down the digests that a registry gave them: `make images`."""

import json
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
import yaml

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "images" / "images.yaml"
_CPU_ONLY = "runtime-cpu"


@dataclass(frozen=True)
class Build:
    """How one row of the table is made.

    Attributes:
        title: of the image: runtime or tools.
        requirements: files of `requirements/`, without their ending.
    """

    title: str
    requirements: tuple[str, ...]

    def arguments(self) -> dict[str, str]:
        """The build arguments that make the image say what it holds."""
        version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
        assert version is not None
        return {
            "REQUIREMENTS": " ".join(self.requirements),
            "TITLE": f"distillery-{self.title}",
            "VERSION": version[1],
            "REVISION": _revision(),
            "CODE_VERSION": code_version(),
        }


@dataclass(frozen=True)
class Engine:
    """Docker, podman, or what takes the same words.

    Attributes:
        program: its command.
        flags: further words of every build.
    """

    program: str = "docker"
    flags: tuple[str, ...] = field(default=())

    def run(self, *words: str, captured: bool = False) -> str:
        """Run one command of it.

        Raises:
            MissingResourceError: there is no such program.
            ConfigError: it failed, and has said why.
        """
        try:
            done = subprocess.run([self.program, *words], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE if captured else None)
        except FileNotFoundError:
            raise MissingResourceError(f"There is no program {self.program!r}: install a container engine, or name yours.") from None
        except subprocess.CalledProcessError as error:
            raise ConfigError(f"`{self.program} {words[0]}` ended with {error.returncode}: look at what it said above.") from None
        return done.stdout or ""

    def build(self, reference: str, arguments: dict[str, str]) -> None:
        """Build the Containerfile under a name."""
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self.run("build", "--file", "images/Containerfile", *given, *self.flags, "--tag", reference, ".")

    def digest(self, reference: str) -> str:
        """sha256:... by which the registry of a pushed image knows it.

        Raises:
            MissingResourceError: it was pushed nowhere, so nobody could pull by any digest.
        """
        repository = re.sub(r":[^:/]+$", "", reference)
        for known in json.loads(self.run("inspect", "--format", "{{json .RepoDigests}}", reference, captured=True)) or []:
            name, _, digest = known.partition("@")
            if name == repository:
                return str(digest)
        raise MissingResourceError(f"{reference!r} has no digest: only a registry that it is pushed to gives one.")


def builds() -> dict[str, Build]:
    """Every row of the table; where the hashes of torch's CPU build were never read, the CUDA build serves on CPUs as well."""
    runtime = Build("runtime", ("runtime", "kfp"))
    cpu = Build("runtime", (_CPU_ONLY, "kfp")) if (ROOT / "requirements" / f"{_CPU_ONLY}.txt").exists() else runtime
    return {"gpu": runtime, "cpu": cpu, "tools": Build("tools", ("tools",))}


def write_digest(table: Path, row: str, digest: str) -> None:
    """Put a digest behind a row's reference, in place of the one before; nothing else in the file changes.

    Args:
        table: images.yaml.
        row: which must be in it.
        digest: sha256:....
    """
    text, found = re.subn(rf"^({re.escape(row)}: [^@\s]+)(@\S+)?$", rf"\g<1>@{digest}", table.read_text(), flags=re.MULTILINE)
    assert found == 1, f"{row} is no row of {table}"
    table.write_text(text)


def main(
    rows: Annotated[list[str] | None, typer.Argument(help="Rows of images.yaml; all without any.")] = None,
    registry: Annotated[str, typer.Option(metavar="HOST/PREFIX", help="Where the images will lie, in place of the table's host.")] = "",
    push: Annotated[bool, typer.Option("--push", help="Push them, and write the registry's digests into images.yaml.")] = False,
    base: Annotated[str, typer.Option(help="Base image instead of the Containerfile's.")] = "",
    index: Annotated[str, typer.Option(metavar="URL", help="Package index instead of the installers' own.")] = "",
    extra_index: Annotated[str, typer.Option(metavar="URL", help="One more index, such as one with torch's CPU build.")] = "",
    engine: Annotated[str, typer.Option(help="docker, podman, or a path to one.")] = "docker",
    flag: Annotated[list[str] | None, typer.Option(help="One more word of every build, such as --flag=--network=host.")] = None,
) -> None:
    """Build the images of images.yaml and tell what each weighs; no digest is written that no registry gave."""
    from distillery_kfp.pipelines.deployment import choose_deployment

    table, known = choose_deployment(registry), builds()
    if unknown := [row for row in rows or () if row not in known]:
        raise ConfigError(f"{unknown[0]!r} is no row of images.yaml: give {', '.join(known)}.")
    if push and table.is_placeholder:
        raise ConfigError("The table's host is nobody's, so nothing can be pushed there: give --registry HOST/PREFIX.")
    places = {"BASE": base, "PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index, "UV_INDEX": extra_index}
    chosen = {name: value for name, value in places.items() if value}
    with_engine = Engine(engine, tuple(flag or ()))
    for row in rows or known:
        reference = table.images[row].partition("@")[0]
        began = time.monotonic()
        with_engine.build(reference, {**known[row].arguments(), **chosen})
        said = yaml.safe_load(with_engine.run("inspect", "--format", "{id: '{{.Id}}', size: {{.Size}}}", reference, captured=True))
        typer.echo(f"{row}: {reference}: {said['size'] / 1e6:,.0f} MB in {time.monotonic() - began:.0f} s, id {said['id']}")
        if push:
            with_engine.run("push", reference)
            write_digest(TABLE, row, digest := with_engine.digest(reference))
            typer.echo(f"{row}: {digest}, written into {TABLE.relative_to(ROOT)}: run make goldens")
    if known["cpu"] == known["gpu"] and "cpu" in (rows or known):
        typer.echo("cpu holds torch's CUDA build: `make lock-images-cpu UV_INDEX=...` reads the hashes of the CPU build.")


def _revision() -> str:
    """The commit, with a mark where the tree holds more; "" outside of git."""
    try:
        words = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    try:
        typer.run(main)
    except DistilleryError as error:
        typer.echo(f"images: {error}", err=True)
        raise SystemExit(1) from None
