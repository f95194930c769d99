"""Profiles: node pools by name, as files, those of the package and those of whoever compiles; and what one run chooses of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from distillery.config import Config, nearest
from distillery.errors import ConfigError
from distillery.placement.amounts import read_accelerators
from distillery.placement.pools import SIZES, Key, NodeRoom, Pools
from distillery.plain_yaml import read_yaml, read_yaml_file

PROFILES = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "nvidia"
WITHOUT_ACCELERATORS = "cpu"
FIELDS = ("run_profile", "k8s_overrides", "profiles")
"""What a plan is given about places; it checks these and keeps none, so that they change no result."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _object_name(text: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise ValueError("give the name of an object of the namespace, by up to 63 small letters, digits and hyphens")
    return text


Name = Annotated[str, AfterValidator(_object_name)]


class Expression(Config):
    """What a node's label must fulfil, spelled as Kubernetes spells it.

    Attributes:
        key: of the label.
        operator: between label and values.
        values: allowed or forbidden ones; one number for Gt and Lt.
    """

    key: Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_its_values(self) -> "Expression":
        wanted = {"In": len(self.values) > 0, "NotIn": len(self.values) > 0, "Gt": len(self.values) == 1, "Lt": len(self.values) == 1}
        if not wanted.get(self.operator, not self.values):
            counts = {"In": "at least one value", "NotIn": "at least one value", "Gt": "one value", "Lt": "one value"}
            raise ValueError(f"the operator {self.operator} takes {counts.get(self.operator, 'no value')}")
        return self


class Affinity(Config):
    """What nodes must fulfil, by the size of a step; the plan stands beside the sizes."""

    plan: tuple[Expression, ...] = ()
    small: tuple[Expression, ...] = ()
    medium: tuple[Expression, ...] = ()
    large: tuple[Expression, ...] = ()


class Fixed(Config):
    """What Kubeflow 2.17 takes from a compiled file alone: no parameter of a run can change it.

    Attributes:
        plan: what the first step is given, which has nobody before it that could choose.
        user: number of the user that a container runs as, in group 0; 0 leaves it to the image and the cluster.
        queue: of Kueue, a LocalQueue of the namespace; "" for none.
        priority: of Kueue, a WorkloadPriorityClass; "" for none. Kubeflow has no field for a pod's own priority class.
        pull_secrets: Secrets of the namespace that pull images.
        affinity: what nodes must fulfil.
    """

    plan: NodeRoom = NodeRoom(cpu_request="1", cpu_limit="4", memory_request="2Gi", memory_limit="8Gi")
    user: int = Field(10001, ge=0, lt=2**31)
    queue: Name = ""
    priority: Name = ""
    pull_secrets: tuple[Name, ...] = ()
    affinity: Affinity = Affinity()

    @model_validator(mode="after")
    def _priority_in_a_queue(self) -> "Fixed":
        if self.priority and not self.queue:
            raise ValueError(f"priority = {self.priority!r} is Kueue's, which reads it in a queue; name the queue as well")
        return self


class NodeProfile(Pools):
    """One file of `placement/profiles`, or of whoever compiles.

    Attributes:
        summary: one line.
        fixed: what is decided when a pipeline is compiled.
    """

    summary: str
    fixed: Fixed = Fixed()

    def agrees_with(self, other: "NodeProfile") -> bool:
        """Whether one compiled file serves both."""
        return self.fixed == other.fixed

    def changed(self, overrides: Mapping[str, Any]) -> Pools:
        """The pools of one run.

        Args:
            overrides: values by `<size>.<field>`, such as `large.memory_limit`; a selector or a list of tolerations is replaced whole.

        Raises:
            ConfigError: an unknown key, or a value that no cluster would take.
        """
        document = {size: getattr(self, size).to_json() for size in SIZES}
        for key, value in overrides.items():
            size, _, name = str(key).partition(".")
            if size not in SIZES or not name:
                raise ConfigError(
                    f"k8s_overrides has no {key!r}: name a size ({', '.join(SIZES)}) and a field, such as large.memory_limit"
                    f"{(size not in SIZES and nearest(size, list(SIZES))) or '.'}"
                )
            document[size][name] = value
        return Pools.parse(document, "k8s_overrides")


@dataclass(frozen=True)
class Placement:
    """What one run chose.

    Attributes:
        profile: its name.
        pools: with what the run changed.
    """

    profile: str
    pools: Pools

    @property
    def accelerated(self) -> bool:
        """Whether steps that train get an accelerator."""
        return read_accelerators(self.pools.large.accelerators) > 0


def profile_names() -> list[str]:
    """Names of the package's profiles, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def find_profile(name: str, own: Mapping[str, Any] | None = None) -> NodeProfile:
    """The profile called `name`.

    Args:
        name: of a file.
        own: further profiles by name, as `NodeProfile.to_json` gives them.

    Raises:
        ConfigError: there is none; names the nearest one.
    """
    if own and name in own:
        return NodeProfile.parse(own[name], name)
    if name not in profile_names():
        known = sorted({*profile_names(), *(own or {})})
        raise ConfigError(f"There is no profile {name!r}; known: {', '.join(known)}{nearest(name, known) or '.'}")
    return NodeProfile.parse(read_yaml((PROFILES / f"{name}.yaml").read_bytes()), name)


def read_profile(source: str) -> tuple[str, NodeProfile]:
    """A profile with its name, of the package or from a file.

    Args:
        source: a name, or the path of a YAML file, which ends in .yaml or .yml; the profile is called like the file.

    Raises:
        ConfigError: no such name, no YAML, or what no cluster would take.
        MissingResourceError: no such file.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        return source, find_profile(source)
    if not _NAME.fullmatch(path.stem) or path.stem in profile_names():
        raise ConfigError(
            f"--profile {source!r} is not allowed: call the file by small letters, digits and hyphens, and not like one of "
            f"{', '.join(profile_names())}."
        )
    what = f"--profile {source!r}"
    wrong = f"{what} is no YAML: copy a profile of the package and change that."
    return path.stem, NodeProfile.parse(read_yaml_file(path, what, "give a YAML file, or a profile's name", wrong), path.stem)


def choose_placement(form: Mapping[str, Any]) -> Placement | None:
    """What a run form chose; None where it says nothing of places, as on one machine.

    Args:
        form: values by name; `FIELDS` are read.

    Raises:
        ConfigError: no such profile, or an override that no cluster would take.
    """
    if not any(name in form for name in FIELDS):
        return None
    name, overrides = form.get("run_profile", DEFAULT_PROFILE), form.get("k8s_overrides", {})
    if not isinstance(overrides, Mapping):
        raise ConfigError(f'k8s_overrides = {overrides!r} is not allowed: give a mapping such as {{"large.memory_limit": "64Gi"}}.')
    return Placement(str(name), find_profile(str(name), form.get("profiles", {})).changed(overrides))


def without_placement(form: Mapping[str, Any]) -> dict[str, Any]:
    """The form without what says where tasks run."""
    return {name: value for name, value in form.items() if name not in FIELDS}
