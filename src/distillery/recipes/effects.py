"""Which values of a recipe do something under which methods; the others are refused by name. Plain data: importing it imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distillery.errors import ConfigError
from distillery.methods.catalog import Method

Kind = Literal["online", "generator", "inversion"]
"""Methods that play against the student; those that train a generator, of which a set is drawn; those whose turns are the set."""


@dataclass(frozen=True)
class Value:
    """A value that some kinds of methods do not read.

    Attributes:
        path: its dotted place.
        serves: the kinds that read it.
        why: what about the others makes it idle, after the method's title.
        instead: what to set there instead, if anything.
        by_class: of the kinds that read it, only methods whose images are asked for by class do.
    """

    path: str
    serves: frozenset[Kind]
    why: str
    instead: str = ""
    by_class: bool = False


_ONLINE: frozenset[Kind] = frozenset({"online"})
_DRAWN: frozenset[Kind] = frozenset({"generator"})
_OFFLINE: frozenset[Kind] = frozenset({"generator", "inversion"})
_IN_ROUNDS: frozenset[Kind] = frozenset({"online", "generator"})
_APART = "whose student trains by itself on the finished set"
_POOL = "whose set is what its turns have made"
_TURNS = "whose turns fill the set, a batch and a checkpoint each"

TABLE: tuple[Value, ...] = (
    Value("synthesis.student_steps_per_turn", _ONLINE, _APART, "student.stages.*.epochs"),
    Value("synthesis.closing_rounds", _ONLINE, _APART, "student.stages.*.epochs"),
    Value("synthesis.feed", _ONLINE, _APART),
    Value("synthesis.record", _ONLINE, _APART),
    Value("synthesis.generators", _DRAWN, "which trains no generators apart from the student"),
    Value("synthesis.shard_memory_gib", _DRAWN, "which trains no generators apart from the student"),
    Value("synthesis.rounds", _IN_ROUNDS, _TURNS, "set.size"),
    Value("synthesis.turns_per_round", _IN_ROUNDS, _TURNS, "set.size"),
    Value("synthesis.checkpoint_every", _IN_ROUNDS, _TURNS),
    Value("set.size", _OFFLINE, _POOL, "synthesis.rounds"),
    Value("set.shard_images", _OFFLINE, _POOL),
    Value("set.max_oversampling", _OFFLINE, _POOL),
    Value("set.batch", _DRAWN, "whose turns say how many images they make", "synthesis.config"),
    Value("set.labels", _DRAWN, "whose turns ask for classes themselves", by_class=True),
)
"""What is not here is read whatever the method is."""


def kind_of(method: Method) -> Kind:
    """Which kind a method is of."""
    if method.coupling == "online":
        return "online"
    return "inversion" if method.inverts else "generator"


def check_effects(document: Mapping[str, Any], method: Method) -> None:
    """Refuse a value that a recipe gives and its method never reads.

    Args:
        document: the recipe's raw mapping, its bases and overrides merged in.
        method: that it names.

    Raises:
        ConfigError: names the first such value and what to set instead.
    """
    for value, holder, name in _idle(document, method):
        instead = f", and set {value.instead}" if value.instead else ""
        why = value.why if kind_of(method) not in value.serves else "whose images are of no class that is asked for"
        raise ConfigError(f"{value.path} = {holder[name]!r} has no effect under {method.title}, {why}: leave it out{instead}.")


def drop_idle(document: Mapping[str, Any], method: Method) -> None:
    """Take out of a base, in place, what a method never reads: who extends it with another method cannot."""
    for _, holder, name in list(_idle(document, method)):
        del holder[name]


def _idle(document: Mapping[str, Any], method: Method) -> Iterator[tuple[Value, dict[str, Any], str]]:
    kind = kind_of(method)
    for value in TABLE:
        section, _, name = value.path.partition(".")
        holder = document.get(section)
        idle = kind not in value.serves or (value.by_class and not method.classes)
        if idle and isinstance(holder, dict) and name in holder:
            yield value, holder, name
