"""Weights that somebody else wrote: read without unpickling objects, matched to a network, tried once."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.foreign_code import guarded, named
from distillery.grammar import with_article
from distillery.models.allowance import allow_named
from distillery.models.catalog import Architecture, build_network, class_argument
from distillery.models.findings import check_constants, judge
from distillery.models.rebuilt import check_rebuilt
from distillery.models.trial import probe_images, settle
from distillery.models.unpickling import read_objects
from distillery.models.weight_sets import FoundWeights, flatten, listed, select
from distillery.runtime import Runtime, has_native_bfloat16
from distillery.types import Classifier, ImageSpec

_log = logging.getLogger(__name__)


def import_checkpoint(
    path: Path, architecture: Architecture, spec: ImageSpec, class_names: tuple[str, ...], weights: str = ""
) -> Classifier:
    """Read a foreign checkpoint into a classifier and try it as the steps will run it.

    Args:
        path: a safetensors file, or a file of torch.save that holds tensors in dicts, of any floating type; the weights may stand under
            any keys, beside what a trainer keeps, and their names may begin alike.
        architecture: the network they belong to; who names a factory of their own here allows it for this call.
        spec: the images it was trained on.
        class_names: one a class, in the order of the logits.
        weights: the dotted beginning of the names to take, of several sets of weights (`ema.state_dict`); "" takes those that fit, and
            plain ones before an average of them.

    Returns:
        The classifier, in eval mode, on the CPU, not frozen.

    Raises:
        MissingResourceError: there is no such file.
        StoreError: the file cannot be read.
        ConfigError: a pickled whole model, no such weights, or ones that do not fit, a mean and std of another scale, or a network that
            fails as the steps would run it or gives no finite logits.
    """
    check_constants(spec)
    with allow_named(architecture.name):
        return _import(path, architecture, spec, class_names, weights)


def _import(path: Path, architecture: Architecture, spec: ImageSpec, class_names: tuple[str, ...], weights: str) -> Classifier:
    network = build_network(architecture, spec, len(class_names))
    classifier = Classifier(network, spec, class_names)
    taken = select(read_checkpoint(path), network.state_dict(), weights)
    _check_fit(taken.weights, network, path, architecture, len(class_names))
    for sentence in taken.told:
        _log.warning(sentence)
    with guarded(f"{architecture.name} does not take the weights of {str(path)!r}", "check architecture and arguments"):
        network.load_state_dict(taken.weights.completed(_counters(network)))
    found = settle(classifier, architecture.name, _runtime())
    for finding in judge(found, architecture.name):
        _log.warning(finding)
    if not (found.random or found.written):
        check_rebuilt(classifier.eval(), architecture, probe_images(spec.shape))
    return classifier.eval()


def _runtime() -> Runtime:
    """This machine's CPU, with the precision that a run would choose on it."""
    cpu = torch.device("cpu")
    return Runtime(cpu, "bfloat16" if has_native_bfloat16(cpu) else "float32", torch.get_num_threads())


def read_checkpoint(path: Path) -> FoundWeights:
    """Every tensor of a checkpoint, on the CPU, under its dotted path, with the versions of modules where it has them.

    Raises:
        MissingResourceError: there is no such file.
        StoreError: the file cannot be read.
        ConfigError: the file holds objects of types that are not read, or no weights.
    """
    if not path.is_file():
        raise MissingResourceError(f"There is no checkpoint {str(path)!r}: give a safetensors file or one of torch.save.")
    if path.suffix == ".safetensors":
        try:
            return flatten(load_file(path))
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{str(path)!r} cannot be read as safetensors ({named(error)}): download or save it again.") from error
    value = read_objects(path)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{str(path)!r} holds {with_article(type(value).__name__)}, not a dict of weights: save model.state_dict() and import that."
        )
    found = flatten(value)
    if not found.weights:
        keys = listed([str(key) for key in value])
        raise ConfigError(
            f"{str(path)!r} holds no tensors under {keys or 'any key'}: put the weights under state_dict or model, or at the top."
        )
    return found


def _counters(network: nn.Module) -> dict[str, Tensor]:
    """BatchNorm's step counters, which old and converted checkpoints lack and evaluation does not read."""
    return {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}


def _check_fit(weights: Mapping[str, Tensor], network: nn.Module, path: Path, architecture: Architecture, num_classes: int) -> None:
    expected: dict[str, Any] = network.state_dict()
    missing = sorted(expected.keys() - weights.keys() - _counters(network).keys())
    unexpected = sorted(weights.keys() - expected.keys())
    shapes = {
        name: (tuple(item.shape), tuple(expected[name].shape))
        for name, item in weights.items()
        if name in expected and item.shape != expected[name].shape
    }
    kinds = [name for name, item in weights.items() if name in expected and expected[name].is_floating_point() > item.is_floating_point()]
    if not (missing or unexpected or shapes or kinds):
        return
    classes = _other_count(shapes.values(), num_classes)
    if classes and not (missing or unexpected):
        raise ConfigError(
            f"{str(path)!r} has {classes} classes, but {num_classes} class names were given: name its {classes} classes in order."
        )
    if (built := _other_count([(wanted, found) for found, wanted in shapes.values()], num_classes)) and not (missing or unexpected):
        argument = class_argument(architecture)
        advice = f"give --argument {argument}={num_classes}" if argument else "give the argument of its class count"
        raise ConfigError(f"{architecture.name} builds {built} classes by itself, but {str(path)!r} has {num_classes}: {advice}.")
    parts = [f"missing: {listed(missing)}"] if missing else []
    parts += [f"unexpected: {listed(unexpected)}"] if unexpected else []
    different = [f"{name} {found} instead of {wanted}" for name, (found, wanted) in sorted(shapes.items())]
    parts += [f"of another shape: {listed(different)}"] if different else []
    parts += [f"of integers where numbers with a fraction belong: {listed(kinds)}"] if kinds else []
    raise ConfigError(
        f"{str(path)!r} does not fit {architecture.name} ({'; '.join(parts)}): check architecture, arguments, channels and classes."
    )


def _other_count(shapes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], num_classes: int) -> int:
    """The class count of those that have not the right one, where that alone explains every mismatch; else 0.

    Args:
        shapes: of each tensor that does not fit, the one with another count and the one with `num_classes`.
        num_classes: the right one.
    """
    pairs = list(shapes)
    explained = all(other and right and other[1:] == right[1:] and right[0] == num_classes for other, right in pairs)
    counts = {other[0] for other, _ in pairs if other}
    return counts.pop() if explained and len(counts) == 1 and len(pairs) <= 2 else 0
