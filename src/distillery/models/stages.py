"""Where the stages of a network end: the layers that objectives on features compare where a recipe names none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from distillery.models.trial import probe_images
from distillery.seeding import seeded
from distillery.statistics.modes import eval_mode
from distillery.statistics.taps import tap_outputs, visited_path
from distillery.types import Classifier

_WITHIN = 2.5  # a module that makes maps smaller than by this much holds several stages, and is looked into: 5 to 2 is one halving
_ASPECT = 1.5  # how far a map's shape may be from the images': 3x2 of square ones; what is farther is no map, or has its channels last
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class _Map(NamedTuple):
    """A visit of one forward pass whose output is a map, or more of them."""

    visit: str
    channels: int
    height: int
    width: int


def stage_outputs(classifier: Classifier) -> tuple[str, ...]:
    """Paths of the modules that end the stem (where there is one) and each stage, from the images on.

    A network may list them itself, as those of our table do (`stage_outputs`, by its own paths), or as timm's do (`feature_info`). Of any
    other a stage ends with the last module before maps get smaller, and with the last map of all: it is shown two images, in eval mode.

    Args:
        classifier: left as it was.

    Returns:
        Visits as `Tap.parse` reads them; none where the network answers without maps.

    Raises:
        ConfigError: the network fails on images of its size.
    """
    network = classifier.network
    if isinstance(listed := getattr(network, "stage_outputs", None), tuple | list):
        return tuple(f"network.{path}" for path in listed if isinstance(path, str))
    maps = _maps(classifier)
    return _listed_by_timm(network, maps) or _found(classifier, maps)


@contextmanager
def kept_buffers(*networks: nn.Module) -> Iterator[None]:
    """Put buffers back: some networks count their passes, in eval mode too."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def _listed_by_timm(network: nn.Module, maps: list[_Map]) -> tuple[str, ...]:
    listed = getattr(network, "feature_info", None)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return ()
    channels = {entry.visit: entry.channels for entry in maps}
    named = [(f"network.{entry.get('module')}", entry.get("num_chs")) for entry in listed]
    # those of transformers are rows of tokens, or maps whose channels stand last
    return tuple(path for path, _ in named) if all(channels.get(path) == count for path, count in named) else ()


def _found(classifier: Classifier, maps: list[_Map]) -> tuple[str, ...]:
    """The last visit before each place where maps get smaller, and the last of all before the head."""
    spec = classifier.spec
    way: list[_Map] = []
    for entry in _walk(maps, "network", _Map("", spec.channels, spec.height, spec.width)):
        if isinstance(classifier.get_submodule(visited_path(entry.visit)), _POOLS):
            if entry.height == entry.width == 1:
                break
            continue
        way.append(entry)
    ends = [one for one, other in zip(way, way[1:], strict=False) if _shrinks(one, other)]
    return tuple(entry.visit for entry in (*ends, *way[-1:]))


@torch.no_grad()
def _maps(classifier: Classifier) -> list[_Map]:
    """Every visit whose output is (N, C, H, W), nobody has overwritten, and is shaped about as the images are."""
    shape = classifier.spec.height / classifier.spec.width
    paths = [path for path, _ in classifier.named_modules(remove_duplicate=False) if path.startswith("network.")]
    images = probe_images(classifier.spec.shape, 2).to(classifier.mean.device)
    with seeded(0, "probe"), eval_mode(classifier), kept_buffers(classifier), tap_outputs(classifier, paths) as taps:
        classifier(classifier.arrange(images))
        outputs = ((visit, taps.find(visit)) for visit in taps.keys)
        maps = [_Map(visit, *output.shape[1:]) for visit, output in outputs if output is not None and output.dim() == 4]
    return [entry for entry in maps if 1 / _ASPECT <= entry.height / entry.width / shape <= _ASPECT]


def _walk(maps: list[_Map], parent: str, before: _Map) -> Iterator[_Map]:
    """The maps on the way through a module: those of its parts, each looked into where it holds several stages."""
    inside = [entry for entry in maps if visited_path(entry.visit).startswith(f"{parent}.")]
    paths = {visited_path(entry.visit) for entry in inside}
    for entry in inside:
        path = visited_path(entry.visit)
        above = path.rpartition(".")[0]
        while above != parent and above not in paths:
            above = above.rpartition(".")[0]
        if above != parent:
            continue
        if _shrinks(before, entry, _WITHIN) and any(other.startswith(f"{path}.") for other in paths):
            yield from _walk(inside, path, before)
        else:
            yield entry
        before = entry


def _shrinks(one: _Map, other: _Map, by: float = 1.0) -> bool:
    """Whether a map is followed by one that is smaller by more than a factor in one direction, and larger in none."""
    ratios = one.height / other.height, one.width / other.width
    return max(ratios) > by and min(ratios) >= 1
