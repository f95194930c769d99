"""Which tensors of a checkpoint are a network's weights: found by the names that fit, whatever they stand under and begin with."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from distillery.config import nearest
from distillery.errors import ConfigError
from distillery.models.versions import Weights

_DEPTH = 5  # mappings within mappings
_LISTED = 4  # names quoted in a message before it says how many more
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of names that torch's wrappers put anywhere
_AVERAGED = {"ema", "swa", "average", "averaged", "avg", "shadow", "polyak"}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class FoundWeights:
    """Every tensor of nested mappings.

    Attributes:
        weights: by dotted path, with the versions of modules under theirs.
        places: where a mapping begins, "" or with a dot at its end.
    """

    weights: Weights
    places: frozenset[str]

    def without(self, parts: set[str]) -> "FoundWeights":
        """The same without these parts of names; as it is where two names would become one."""
        weights = self.weights.renamed(lambda name: _without(name, parts))
        return (
            FoundWeights(weights, frozenset(_without(place, parts) for place in self.places)) if len(weights) == len(self.weights) else self
        )

    def place_of(self, name: str) -> str:
        """The innermost mapping that holds a name."""
        return max((place for place in self.places if name.startswith(place)), key=len, default="")


@dataclass(frozen=True)
class ChosenWeights:
    """The weights that were taken.

    Attributes:
        weights: by the names of the network.
        told: a sentence for each thing that the user should know.
    """

    weights: Weights
    told: tuple[str, ...]


class _Fit(NamedTuple):
    """How well the names below a prefix fit; the largest is the best."""

    shapes: int  # names with the right shape
    names: int
    plain: bool  # not an average of weights
    nearness: int  # fewer parts first
    order: int  # as in the file
    prefix: str


def flatten(document: Mapping[Any, Any]) -> FoundWeights:
    """Every tensor of nested mappings, a few deep."""
    tensors: dict[str, Tensor] = {}
    versions: dict[str, Any] = {}
    places = set()
    for path, mapping in _mappings(document, "", set(), _DEPTH):
        places.add(path)
        tensors |= {f"{path}{key}": item for key, item in mapping.items() if isinstance(item, Tensor)}
        known = getattr(mapping, "_metadata", None)
        for name, entry in known.items() if isinstance(known, Mapping) else ():
            versions[f"{path}{name}".removesuffix(".")] = entry
    return FoundWeights(Weights(tensors, versions), frozenset(places))


def select(found: FoundWeights, expected: Mapping[str, Tensor], chosen: str = "") -> ChosenWeights:
    """Take the tensors that are a network's weights.

    The common beginning is stripped that makes most names fit, wherever it comes from: the key under which a trainer put the weights,
    the attribute that held the network, a wrapper. What stands beside it is left out.

    Args:
        found: as `flatten` gives it.
        expected: the network's state dict.
        chosen: the dotted beginning to look below; "" looks everywhere, and prefers weights to averages of them.

    Raises:
        ConfigError: nothing stands below `chosen`.
    """
    fits, seen, chosen_here = _rank(found, expected, chosen)
    prefix = fits[0].prefix if fits else _guess(seen, chosen_here)
    weights = seen.weights.below(prefix)
    if "n_averaged" not in expected:
        weights.pop("n_averaged", None)  # torch's AveragedModel counts
    others = [fit for fit in fits[1:] if fit[:2] == fits[0][:2]]
    told = [_say_others(prefix, others)] if others and not chosen else []
    if beside := _beside(seen, fits):
        told.append(f"What stands beside the weights under {prefix.rstrip('.')!r} was left out: {listed(beside)}.")
    return ChosenWeights(weights, tuple(told))


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _mappings(value: Mapping[Any, Any], path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if id(value) in seen:  # a file may hold a dict in itself
        return
    seen.add(id(value))
    yield path, value
    for key, item in value.items() if depth else ():
        if isinstance(item, Mapping):
            yield from _mappings(item, f"{path}{key}.", seen, depth - 1)


def _rank(found: FoundWeights, expected: Mapping[str, Tensor], chosen: str) -> tuple[list[_Fit], FoundWeights, str]:
    """Every prefix that fits some names, best first; the tensors and `chosen` without what wrappers put between."""
    own = {part for name in expected for part in name.split(".")}
    ranked: list[tuple[list[_Fit], FoundWeights, str]] = []
    for dropped in (_WRAPPERS, (*_WRAPPERS, "module")):
        parts = set(dropped) - own
        seen, key = found.without(parts), _without(chosen, parts)
        if not chosen or any(name.startswith(f"{key}.") for name in seen.weights):
            fits = [fit for fit in _fits(seen.weights, expected) if not chosen or fit.prefix.startswith(f"{key}.")]
            ranked.append((sorted(fits, reverse=True), seen, key))
    if not ranked:
        places = _places(found, expected)
        raise ConfigError(
            f"--weights {chosen!r} names nothing in the checkpoint, whose tensors stand under {listed(places) or 'no key'}"
            f"{nearest(chosen, places) or '.'}"
        )
    return max(ranked, key=lambda row: row[0][0][:2] if row[0] else (0, 0))


def _without(name: str, parts: set[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _fits(named: Weights, expected: Mapping[str, Tensor]) -> Iterator[_Fit]:
    names: dict[str, int] = {}
    shapes: dict[str, int] = {}
    for name, item in named.items():
        parts = name.split(".")
        for start in range(len(parts)):
            below = ".".join(parts[start:])
            if below in expected and not below.endswith(_COUNTER):
                prefix = name.removesuffix(below)
                names[prefix] = names.get(prefix, 0) + 1
                shapes[prefix] = shapes.get(prefix, 0) + (item.shape == expected[below].shape)
    for order, (prefix, count) in enumerate(names.items()):
        plain = not _AVERAGED & set(re.split(r"[._\W]+", prefix.lower()))
        yield _Fit(shapes[prefix], count, plain, -prefix.count("."), -order, prefix)


def _guess(seen: FoundWeights, chosen: str) -> str:
    """Where most tensors stand that are no optimizer's: where nothing fits, a message says of these what does not."""
    if chosen:
        return f"{chosen}."
    places = [seen.place_of(name) for name in seen.weights]
    return max(dict.fromkeys(places), key=lambda place: ("optim" not in place.lower(), places.count(place)), default="")


def _beside(seen: FoundWeights, fits: list[_Fit]) -> list[str]:
    """What stands in the same mapping as the weights that were taken, under another beginning, and is no other set of weights."""
    if not fits or fits[0].prefix in seen.places:
        return []
    prefix = fits[0].prefix
    place = seen.place_of(prefix)
    sets = tuple(fit.prefix for fit in fits if not prefix.startswith(fit.prefix) or fit.prefix == prefix)
    rest = [name for name in seen.weights if name.startswith(place) and not name.startswith(sets) and seen.place_of(name) == place]
    return sorted(name.removeprefix(place) for name in rest if name != f"{place}n_averaged")


def _places(found: FoundWeights, expected: Mapping[str, Tensor]) -> list[str]:
    """The dotted beginnings of names: sets of weights that fit best, best first, then the others, shortest first."""
    seen = found.without(set(_WRAPPERS) - {part for name in expected for part in name.split(".")}).weights
    fits = sorted(_fits(seen, expected), reverse=True)
    fitting = [fit.prefix.rstrip(".") for fit in fits if fit.prefix and fit[:2] == fits[0][:2]]
    places = {name.rpartition(".")[0] for name in seen if "." in name}
    shorter = {place.split(".")[0] for place in places} | {".".join(place.split(".")[:2]) for place in places}
    return [*fitting, *sorted(shorter - set(fitting), key=lambda place: (place.count("."), place))]


def _say_others(prefix: str, others: list[_Fit]) -> str:
    names = [fit.prefix.rstrip(".") for fit in others]
    averaged = " (an average of weights)" if len(others) == 1 and not others[0].plain else ""
    taken = f"those under {prefix.rstrip('.')!r}" if prefix else "those at the top"
    return (
        f"The checkpoint holds several sets of weights that fit: {taken} were taken, not those under {listed(names)}{averaged}; "
        f"--weights {names[0]} takes these instead."
    )
