"""What a compiled pipeline names of the place where it runs: images, objects of the namespace, profiles of its nodes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.config import nearest
from distillery.errors import ConfigError
from distillery.placement.profiles import DEFAULT_PROFILE, Fixed, NodeProfile, find_profile, profile_names, read_profile
from distillery.plain_yaml import read_yaml_file
from distillery.step_table import STEPS
from distillery_kfp.pipelines.fixed import fix
from distillery_kfp.pipelines.form import check_name
from distillery_kfp.pipelines.metadata import component_of, images, metadata

Document = dict[str, Any]

PLACEHOLDER_HOST = "registry.example.com"
"""Host of the committed table: a name that RFC 2606 keeps free, so that nobody's images are run by mistake."""
IMAGE_VARIABLE = "DISTILLERY_IMAGE"
"""By which a step learns what image it runs in, for the run's record."""
_HOST = r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9.-]+(?=:))(?::\d+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(rf"(?P<host>{_HOST})(?:/{_PART})+(?::[\w][\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?")
_REGISTRY = re.compile(rf"{_HOST}(?:/{_PART})*")
_PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")
_IMMUTABLE = re.compile(rf"{_PINNED.pattern}|:v?\d+\.\d+\.\d+[\w.-]*$")

_FLAGS = {
    "pull_secrets": ("--pull-secret", "Secret"),
    "settings": ("--settings", "ConfigMap"),
    "credentials": ("--credentials", "Secret"),
}


def offered(*first: tuple[str, NodeProfile]) -> dict[str, NodeProfile]:
    """Profiles that one compiled file serves: those that are named, and those of the package that agree with the first of them.

    Args:
        first: names and profiles; the form opens with the first.

    Raises:
        ConfigError: two that do not agree.
    """
    chosen = dict(first)
    leading, leader = first[0]
    for name, profile in chosen.items():
        if not profile.agrees_with(leader):
            raise ConfigError(
                f"--profile {name} fixes something else than --profile {leading}, and one compiled file can say one of them: give both the "
                "same `fixed`, or compile twice."
            )
    rest = {name: find_profile(name) for name in profile_names() if name not in chosen}
    return {**chosen, **{name: profile for name, profile in rest.items() if profile.agrees_with(leader)}}


def _packaged() -> dict[str, NodeProfile]:
    return offered((DEFAULT_PROFILE, find_profile(DEFAULT_PROFILE)))


@dataclass(frozen=True)
class Deployment:
    """What a compiled file names of the place where it runs.

    Attributes:
        images: reference by row of images.yaml.
        pull_secrets: names of Secrets of the run's namespace, for the images, beside those that the profiles fix.
        settings: names of ConfigMaps that the run form offers, the first as its default.
        credentials: names of Secrets that it offers, likewise.
        profiles: profiles of the cluster's nodes that it offers by name, likewise; all fix the same.
    """

    images: Mapping[str, str] = field(default_factory=images)
    pull_secrets: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("distillery-settings",)
    credentials: tuple[str, ...] = ("distillery-credentials",)
    profiles: Mapping[str, NodeProfile] = field(default_factory=_packaged)

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Fields of the run form that take these names alone.

        An empty name fails in Kubeflow's driver for every task, where no step can say so; a choice is refused by the form and by the API.
        """
        return {"k8s_credentials": self.credentials, "k8s_settings": self.settings, "run_profile": tuple(self.profiles)}

    @property
    def fixed(self) -> Fixed:
        """What the offered profiles fix, with the Secrets that were named for the images."""
        fixed = next(iter(self.profiles.values())).fixed
        return fixed.model_copy(update={"pull_secrets": tuple(dict.fromkeys((*fixed.pull_secrets, *self.pull_secrets)))})

    @property
    def own_profiles(self) -> Document:
        """Profiles that are not the package's, which the compiled file brings along for its plan."""
        return {name: profile.to_json() for name, profile in self.profiles.items() if name not in profile_names()}

    @property
    def is_placeholder(self) -> bool:
        """Whether an image would be looked for where there is none."""
        return any(reference.startswith(f"{PLACEHOLDER_HOST}/") for reference in self.used.values())

    @property
    def used(self) -> dict[str, str]:
        """The rows that steps run in: the table holds more than these."""
        return {row: self.images[row] for row in sorted({metadata(step).image for step in STEPS})}

    def check_release(self) -> None:
        """Refuse what may not be run for good: an image without a digest, or at a host that is nobody's.

        Raises:
            ConfigError: names the rows.
        """
        if loose := [row for row, reference in self.used.items() if not _PINNED.search(reference)]:
            raise ConfigError(
                f"--release needs every image by a digest that a registry gave, but {' and '.join(loose)} "
                f"{'has' if len(loose) == 1 else 'have'} none: `make images PUSH=1 REGISTRY=HOST/PREFIX` writes them; or give --images."
            )
        if self.is_placeholder:
            raise ConfigError(f"--release needs images where they are, but {PLACEHOLDER_HOST} is nobody's: give --registry or --images.")

    def apply(self, spec: Document, settings: Document) -> None:
        """Put images, profiles and what these fix into both documents of a compiled pipeline, as kfp would have written them."""
        for label, executor in spec["deploymentSpec"]["executors"].items():
            container = executor["container"]
            container["image"] = self.images[metadata(component_of(label)).image]
            # a container cannot know by itself which image it was made from: a digest stands in no file of the image
            container["env"] = [row for row in container.get("env", []) if row["name"] != IMAGE_VARIABLE]
            container["env"].append({"name": IMAGE_VARIABLE, "value": container["image"]})
        for task in spec["root"]["dag"]["tasks"].values():
            if component_of(task["componentRef"]["name"]) == "plan":
                task["inputs"]["parameters"]["profiles"] = {"runtimeValue": {"constant": self.own_profiles}}
        fix(spec, settings, self.fixed)


def choose_deployment(registry: str = "", table: str = "", profiles: Sequence[str] = (), **names: Sequence[str]) -> Deployment:
    """A deployment as it is asked for on the command line.

    Args:
        registry: host, and a path below it, that hold the images under their own names; "" keeps the committed host.
        table: a YAML file with references by row of images.yaml, for images of the user's own; it wins over `registry`.
        profiles: names of the package's profiles or paths of own ones, the first as the form's default; none offers the package's.
        names: `pull_secrets`, `settings` and `credentials`; none keeps what is committed.

    Raises:
        ConfigError: a registry, a reference or a name that cannot be one, a tag that can move, a row that images.yaml does not have;
            a profile that there is not, that no cluster would take, or that does not agree with the first.
        MissingResourceError: there is no such file.
    """
    chosen = dict(images())
    if registry:
        place = registry.rstrip("/")
        if not _REGISTRY.fullmatch(place):
            raise ConfigError(
                f"--registry {registry!r} is not allowed: give a host and a path below it, without a scheme or a tag, such as "
                "registry.example.com/team."
            )
        chosen = {name: f"{place}/{reference.rpartition('/')[2]}" for name, reference in chosen.items()}
    if table:
        chosen |= _read_table(table)
    for kind, given in names.items():
        flag, what = _FLAGS[kind]
        for name in given:
            check_name(flag, what, name)
    places = offered(*map(read_profile, profiles)) if profiles else _packaged()
    return Deployment(chosen, profiles=places, **{kind: tuple(dict.fromkeys(given)) for kind, given in names.items() if given})


def faults_of(reference: str) -> str:
    """What is wrong with an image reference, "" where nothing is: it names its host, and what it names never changes."""
    if not _REFERENCE.fullmatch(reference):
        return "names no host: write it whole, such as registry.example.com/team/name:1.0.0"
    if not _IMMUTABLE.search(reference):
        return "can move: give a version, such as :1.0.0, or a digest, @sha256:..."
    return ""


def _read_table(path: str) -> dict[str, str]:
    what = f"--images {path!r}"
    wrong = f"{what} is no YAML: write rows such as gpu: registry.example.com/team/name:1.0.0."
    found = read_yaml_file(Path(path), what, "give a YAML file with rows as images.yaml", wrong)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"--images {path!r} is no table: write rows such as gpu: registry.example.com/team/name:1.0.0.")
    known = sorted(images())
    for name, reference in found.items():
        if name not in known:
            hint = nearest(str(name), known) or "."
            raise ConfigError(f"--images {path!r} has a row {name!r}, but images.yaml has {', '.join(known)}{hint}")
        if not isinstance(reference, str) or (fault := faults_of(reference)):
            raise ConfigError(f"--images {path!r}: {name} = {reference!r} {'is no text' if not isinstance(reference, str) else fault}.")
    return found
