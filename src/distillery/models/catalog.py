"""The table of architectures, and the one door to every network: ours, torchvision's, timm's or a module of the user's own.

Importing this file imports no torch: listing names and parsing a recipe stay fast.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import field_validator

from distillery.config import Config, nearest
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.extras import need
from distillery.foreign_code import guarded
from distillery.grammar import with_article
from distillery.models.allowance import PACKAGES, check_form, import_factory, is_foreign
from distillery.provenance import sha256_bytes
from distillery.step_version import hash_module, hash_trees

if TYPE_CHECKING:
    from torch import nn

    from distillery.types import ImageSpec


class Architecture(Config):
    """A network by name.

    Attributes:
        name: a row of `ARCHITECTURES`, wrn_D_K, torchvision:NAME, timm:NAME or module.path:factory.
        arguments: keywords of the network's config class, or of the foreign factory.
    """

    name: str
    arguments: dict[str, Any] = {}

    def __str__(self) -> str:
        """As people write it: `resnet8`, or `resnet8 (base_width 16)`."""
        said = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.name} ({said})" if said else self.name

    @field_validator("arguments")
    @classmethod
    def _whole_floats_are_integers(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {key: _restore_integers(item, key) for key, item in value.items()}


class Row(NamedTuple):
    """One architecture: "module:Class" of the network (its config class is the same name with `Config` appended), what the name fixes."""

    implementation: str
    arguments: dict[str, Any]
    summary: str


_CIFAR = "distillery.models.classifiers.cifar_resnet:CifarResNet"
_RESNET = "distillery.models.classifiers.resnet:ResNet"
_WRN = "distillery.models.classifiers.wide_resnet:WideResNet"
_VGG = "distillery.models.classifiers.vgg:VGG"
_LENET = "distillery.models.classifiers.lenet:LeNet"
_MOBILENET = "distillery.models.classifiers.mobilenet:MobileNetV2"

_CLASS_ARGUMENTS = (  # as people call it; the first that a factory has is the one
    *("num_classes", "n_classes", "nclasses", "num_class", "n_class", "nclass", "class_count", "class_num", "num_labels"),
    *("num_outputs", "n_outputs", "out_features", "output_dim", "out_dim", "num_out", "n_out", "classes"),
)

ARCHITECTURES: dict[str, Row] = {
    **{
        f"resnet{depth}": Row(_CIFAR, {"depth": depth}, f"CIFAR ResNet-{depth}: 3 stages; arguments shortcut (A, B), base_width")
        for depth in (8, 14, 20, 26, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}": Row(_RESNET, {"depth": depth}, f"ResNet-{depth} with a 3x3 stem: 4 stages; argument base_width")
        for depth in (18, 34, 50)
    },
    "resnet20_four_stages": Row(_RESNET, {"depth": 20}, "ResNet-20 as ResNet-34 is built, 4 stages of 2, 2, 3, 2; argument base_width"),
    **{
        f"wrn_{depth}_{widening}": Row(
            _WRN, {"depth": depth, "widening": widening}, f"Wide ResNet-{depth}-{widening}, pre-activation; argument base_width"
        )
        for depth, widening in ((10, 1), (16, 1), (16, 2), (28, 10), (40, 1), (40, 2))
    },
    **{
        f"vgg{depth}_bn": Row(_VGG, {"depth": depth}, f"VGG-{depth} with BatchNorm and one linear layer; argument base_width")
        for depth in (8, 11, 13, 16)
    },
    "lenet5": Row(_LENET, {"half": False}, "LeNet-5 for 32 px, smaller images padded; argument batch_norm"),
    "lenet5_half": Row(_LENET, {"half": True}, "LeNet-5 at half width; argument batch_norm"),
    "mobilenet_v2": Row(_MOBILENET, {}, "MobileNetV2 with the strides of small images; argument width_multiplier"),
}


def find_row(name: str) -> Row:
    """The table's row called `name`; any wrn_D_K with D = 6n+4 has one.

    Raises:
        ConfigError: no such architecture; names the nearest one.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    wide = re.fullmatch(r"wrn_([1-9]\d*)_([1-9]\d*)", name)
    if wide:
        depth, widening = int(wide[1]), int(wide[2])
        return Row(_WRN, {"depth": depth, "widening": widening}, f"Wide ResNet-{depth}-{widening}, pre-activation")
    raise ConfigError(
        f"There is no architecture {name!r}; known: {', '.join(ARCHITECTURES)}, any wrn_D_K, torchvision:NAME, timm:NAME "
        f"and module.path:factory{nearest(name, list(ARCHITECTURES)) or '.'}"
    )


def check_architecture(architecture: Architecture) -> None:
    """Check a name's form without importing the network; a table name must exist.

    Raises:
        ConfigError: an unknown table name, or half of a "module:factory" missing.
    """
    if ":" not in architecture.name:
        find_row(architecture.name)
        return
    source, _, name = architecture.name.partition(":")
    if not source or not name:
        raise ConfigError(f"architecture = {architecture.name!r} is not allowed: write torchvision:NAME, timm:NAME or module.path:factory.")
    check_form(architecture.name)


def own_sources(*architectures: Architecture) -> dict[str, str]:
    """The code of a user's own behind `module.path:factory`, so that an edit of it enters the keys of the work done with it.

    Args:
        architectures: those of other kinds have no such code.

    Returns:
        Name of the top-level package or module -> sha256 of every *.py, without comments and docstrings, and every *.yaml below the
        package's folder, or of the module's file where it is no package. What these import from elsewhere is not covered.

    Raises:
        ConfigError: no such module.
    """
    foreign = filter(is_foreign, (architecture.name for architecture in architectures))
    return {name: _hash_module(name) for name in sorted({re.split("[.:]", path)[0] for path in foreign})}


def code_of_others(*architectures: Architecture) -> dict[str, Any]:
    """The code of others that these networks are built from, as a section names it.

    Returns:
        sources: `own_sources`. packages: those whose versions matter; a module of the user's own may build on any of them.

    Raises:
        ConfigError: no such module.
    """
    origins = {architecture.name.partition(":")[0] for architecture in architectures if ":" in architecture.name}
    packages = [name for name in PACKAGES if name in origins or origins - set(PACKAGES)]
    return {"sources": own_sources(*architectures), "packages": packages}


def check_own_sources(expected: Mapping[str, str]) -> None:
    """Refuse to work with other code of the user's than the plan was made for.

    Args:
        expected: what `own_sources` gave to the plan.

    Raises:
        CheckpointMismatchError: a module that has changed since, or another one in this environment.
        ConfigError: no such module here.
    """
    for name, sha256 in expected.items():
        if (found := _hash_module(name)) != sha256:
            raise CheckpointMismatchError(
                f"The source of the module {name!r} has sha256 {found}, but the run was planned with {sha256}: "
                "start the run again, with the same files wherever a step runs."
            )


def is_same(one: Architecture, other: Architecture) -> bool:
    """Whether two architectures build the same network: of one of ours whatever an argument's default is is filled in.

    Raises:
        ConfigError: an unknown name or argument.
    """
    if ":" in one.name or ":" in other.name:
        return one == other
    return _own_config(one) == _own_config(other)


def build_network(architecture: Architecture, spec: "ImageSpec", num_classes: int) -> "nn.Module":
    """Build a network with fresh weights, drawn from torch's global stream.

    Args:
        architecture: which one, with its arguments.
        spec: the images it gets, already normalised: (N, spec.channels, spec.height, spec.width).
        num_classes: K, how many logits it gives.

    Returns:
        A module that maps images to logits (N, K), every part of it with its sizes.

    Raises:
        ConfigError: unknown name or argument, a size the network cannot take, timm missing, a module that cannot be imported.
    """
    check_architecture(architecture)
    source, colon, name = architecture.name.partition(":")
    if not colon:
        return _build_own(architecture, spec, num_classes)
    if source == "torchvision":
        return _build_torchvision(name, architecture, spec, num_classes)
    if source == "timm":
        return _build_timm(name, architecture, spec, num_classes)
    from distillery.models.ready import make_ready

    network = _build_foreign(architecture, num_classes)
    make_ready(network, architecture.name, spec)
    return network


def _hash_module(name: str) -> str:
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was made in memory
        spec = None
    if spec is not None and spec.submodule_search_locations:
        folders = [hash_trees(Path(folder)) for folder in spec.submodule_search_locations]
        return sha256_bytes("".join(folders).encode())
    if spec is None or not spec.has_location or spec.origin is None:
        raise ConfigError(f"The module {name!r}, named by an architecture, has no file here: install it or put its folder on PYTHONPATH.")
    return hash_module(Path(spec.origin))


def _build_own(architecture: Architecture, spec: "ImageSpec", num_classes: int) -> "nn.Module":
    implementation, config = _own_config(architecture)
    module, name = implementation.split(":")
    network: nn.Module = getattr(import_module(module), name)(config, spec, num_classes)
    return network


def _own_config(architecture: Architecture) -> tuple[str, Config]:
    """The implementation of a network of ours, and its whole settings."""
    row = find_row(architecture.name)
    fixed = sorted(set(architecture.arguments) & set(row.arguments))
    if fixed:
        raise ConfigError(
            f"Argument {fixed[0]!r} of {architecture.name} is fixed by its name: choose another architecture or leave it out."
        )
    module, name = row.implementation.split(":")
    config: type[Config] = getattr(import_module(module), f"{name}Config")
    return row.implementation, config.parse({**row.arguments, **architecture.arguments}, f"arguments of {architecture.name}")


def _build_torchvision(name: str, architecture: Architecture, spec: "ImageSpec", num_classes: int) -> "nn.Module":
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier {name!r}{nearest(name, known) or ': see torchvision.models.list_models().'}")
    if spec.channels != 3:
        raise ConfigError(f"{architecture.name} takes images of 3 channels, these have {spec.channels}: choose a network of our table.")
    _refuse_downloads(architecture, ("weights", "weights_backbone", "pretrained"))
    factory = torchvision.models.get_model_builder(name)
    return _call(factory, architecture, {"weights": None, "num_classes": num_classes})


def _build_timm(name: str, architecture: Architecture, spec: "ImageSpec", num_classes: int) -> "nn.Module":
    need("timm", f"The architecture {architecture.name!r}")
    timm = import_module("timm")
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise ConfigError(f"timm has no model {name!r}{nearest(name, known) or ': see timm.list_models().'}")
    _refuse_downloads(architecture, ("pretrained", "checkpoint_path"))
    given = {"model_name": name, "pretrained": False, "num_classes": num_classes, "in_chans": spec.channels}
    return _call(timm.create_model, architecture, given)


def class_argument(architecture: Architecture) -> str:
    """The keyword of a foreign factory that takes the class count, for advice; "" where it has none that we know.

    Raises:
        ConfigError: see `import_factory`.
    """
    if not is_foreign(architecture.name):
        return ""
    parameters = _parameters(import_factory(architecture.name))
    known = [name for name in _CLASS_ARGUMENTS if name in parameters]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return known[0] if known else "num_classes" if open_ended else ""


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _build_foreign(architecture: Architecture, num_classes: int) -> "nn.Module":
    with kept_settings():
        factory = import_factory(architecture.name)
    parameters = _parameters(factory)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [] if open_ended else sorted(set(architecture.arguments) - set(parameters))
    if unknown:
        allowed = sorted(parameters)
        hint = nearest(unknown[0], allowed) or "."
        raise ConfigError(f"{architecture.name} has no argument {unknown[0]!r}; it takes: {', '.join(allowed) or 'none'}{hint}")
    return _call(factory, architecture, {"num_classes": num_classes} if "num_classes" in parameters else {})


def _call(factory: Callable[..., Any], architecture: Architecture, given: dict[str, Any]) -> "nn.Module":
    """Call a factory that is not ours; whatever it raises becomes one sentence."""
    from torch import nn

    taken = sorted(set(given) & set(architecture.arguments))
    if taken:
        raise ConfigError(f"Argument {taken[0]!r} of {architecture.name} is set by us from the images and classes: leave it out.")
    with guarded(f"{architecture.name} cannot be built with arguments {architecture.arguments}", "correct them"), kept_settings():
        network = factory(**given, **architecture.arguments)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"{architecture.name} gave {with_article(type(network).__name__)}: name a callable that returns a torch.nn.Module."
        )
    advice = "leave state_dict() and named_modules() of nn.Module as they are"
    with guarded(f"The parts and weights of {architecture.name} cannot be listed", advice):  # what works once is not guarded again
        list(network.named_modules())
        list(network.parameters())
        list(network.buffers())
        network.state_dict()
    return network


@contextmanager
def kept_settings() -> Iterator[None]:
    """Undo what a script of somebody's sets for the whole process: gradients off, or another default dtype."""
    import torch

    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


def _refuse_downloads(architecture: Architecture, names: tuple[str, ...]) -> None:
    for name in names:
        if name in architecture.arguments:
            raise ConfigError(
                f"Argument {name!r} of {architecture.name} is not allowed: weights come from a checkpoint, never from a download."
            )


def _restore_integers(value: Any, where: str) -> Any:
    """Undo what Kubeflow does to integers, so that 16 and 16.0 are one architecture with one hash."""
    if value is None:
        raise ValueError(f"argument {where!r} is null, which does not survive the way through a pipeline: leave it out")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"argument {where!r} is {value}, which no pipeline's JSON can hold: give a finite number")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _restore_integers(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_restore_integers(item, where) for item in value]
    return value
