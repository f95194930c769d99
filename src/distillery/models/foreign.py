"""Weights that somebody else wrote: read without unpickling objects, matched to a network, tried once."""

import logging
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.foreign_code import guarded, named
from distillery.models.allowance import allow_named
from distillery.models.catalog import Architecture, build_network
from distillery.models.findings import check_constants, judge
from distillery.models.rebuilt import check_rebuilt
from distillery.models.trial import probe_images, settle
from distillery.models.versions import Weights
from distillery.runtime import Runtime, has_native_bfloat16
from distillery.types import Classifier, ImageSpec

_ENVELOPES = ("state_dict", "model_state_dict", "model", "net", "network")  # keys that training scripts put their weights under
_LISTED = 4  # names quoted in a message before it says how many more
_log = logging.getLogger(__name__)


def import_checkpoint(path: Path, architecture: Architecture, spec: ImageSpec, class_names: tuple[str, ...]) -> Classifier:
    """Read a foreign checkpoint into a classifier and try it as the steps will run it.

    Args:
        path: a safetensors file, or a file of torch.save that holds tensors in plain dicts; the weights may stand under state_dict, model
            and the like, and their names may begin with module. or _orig_mod. (of DataParallel and torch.compile).
        architecture: the network they belong to; who names a factory of their own here allows it for this call.
        spec: the images it was trained on.
        class_names: one a class, in the order of the logits.

    Returns:
        The classifier, in eval mode, on the CPU, not frozen.

    Raises:
        MissingResourceError: there is no such file.
        StoreError: the file cannot be read.
        ConfigError: a pickled whole model, weights that do not fit, a mean and std of another scale, or a network that fails as the steps
            would run it or gives no finite logits.
    """
    check_constants(spec)
    with allow_named(architecture.name):
        network = build_network(architecture, spec, len(class_names))
    classifier = Classifier(network, spec, class_names)
    weights = _match_prefixes(read_weights(path), network)
    _check_fit(weights, network, path, architecture, len(class_names))
    with guarded(f"{architecture.name} does not take the weights of {str(path)!r}", "check architecture and arguments"):
        network.load_state_dict(weights.completed(_counters(network)))
    found = settle(classifier, architecture.name, _runtime())
    for finding in judge(found, architecture.name):
        _log.warning(finding)
    if not (found.random or found.written):
        with allow_named(architecture.name):
            check_rebuilt(classifier.eval(), architecture, probe_images(spec.shape))
    return classifier.eval()


def _runtime() -> Runtime:
    """This machine's CPU, with the precision that a run would choose on it."""
    cpu = torch.device("cpu")
    return Runtime(cpu, "bfloat16" if has_native_bfloat16(cpu) else "float32", torch.get_num_threads())


def read_weights(path: Path) -> Weights:
    """Tensors of a checkpoint by name, out of their envelope, on the CPU, with the versions of their modules where it has them.

    Raises:
        MissingResourceError: there is no such file.
        StoreError: the file cannot be read.
        ConfigError: the file holds pickled objects, or no weights.
    """
    if not path.is_file():
        raise MissingResourceError(f"There is no checkpoint {str(path)!r}: give a safetensors file or one of torch.save.")
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path))
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{str(path)!r} cannot be read as safetensors ({named(error)}): download or save it again.") from error
    return _unwrap(_load_pickle(path), path)


def _load_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():  # torch warns of TorchScript archives before it refuses them
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = "a pickled whole model or other Python objects" if "Unsupported" in str(error) or "GLOBAL" in str(error) else "no tensors"
        raise ConfigError(
            f"{str(path)!r} holds {found}, and objects are never unpickled: where it was trained, "
            f"torch.save(model.state_dict(), 'weights.pt') and import that."
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError and more on damaged files and on TorchScript
        raise ConfigError(
            f"{str(path)!r} cannot be read as a checkpoint ({named(error)}): "
            f"save torch.save(model.state_dict(), 'weights.pt') and import that."
        ) from error


def _unwrap(value: object, path: Path) -> Weights:
    while isinstance(value, Mapping):
        inner = next((value[key] for key in _ENVELOPES if isinstance(value.get(key), Mapping)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, Mapping):
        raise ConfigError(f"{str(path)!r} holds a {type(value).__name__}, not a dict of weights: save model.state_dict() and import that.")
    weights = Weights.of(value)
    if not weights:
        keys = _list([str(key) for key in value])
        raise ConfigError(f"{str(path)!r} holds no tensors under {keys}: put the weights under state_dict or model, or at the top.")
    return weights


def _match_prefixes(weights: Weights, network: nn.Module) -> Weights:
    """Strip what wrappers put before the names, unless the network itself has such names."""
    expected = set(network.state_dict())
    if "n_averaged" not in expected:
        weights.pop("n_averaged", None)  # torch's AveragedModel counts
    while weights.keys() - expected:
        stripped = weights.renamed(lambda name: name.replace("_orig_mod.", ""))
        if all(key.startswith("module.") for key in stripped):
            stripped = stripped.renamed(lambda name: name.removeprefix("module."))
        if stripped.keys() == weights.keys() or len(stripped) != len(weights):
            break
        weights = stripped
    return weights


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
    if not (missing or unexpected or shapes):
        return
    classes = _class_count(shapes, num_classes)
    if classes and not (missing or unexpected):
        raise ConfigError(
            f"{str(path)!r} has {classes} classes, but {num_classes} class names were given: name its {classes} classes in order."
        )
    parts = [f"missing: {_list(missing)}"] if missing else []
    parts += [f"unexpected: {_list(unexpected)}"] if unexpected else []
    different = [f"{name} {found} instead of {wanted}" for name, (found, wanted) in sorted(shapes.items())]
    parts += [f"of another shape: {_list(different)}"] if different else []
    raise ConfigError(
        f"{str(path)!r} does not fit {architecture.name} ({'; '.join(parts)}): check architecture, arguments, channels and classes."
    )


def _class_count(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]], num_classes: int) -> int:
    """The checkpoint's class count where that alone explains every mismatch, else 0."""
    counts = {found[0] for found, wanted in shapes.values() if found and found[1:] == wanted[1:] and wanted[0] == num_classes}
    explained = all(found and found[1:] == wanted[1:] and wanted[0] == num_classes for found, wanted in shapes.values())
    return counts.pop() if explained and len(counts) == 1 and len(shapes) <= 2 else 0


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
