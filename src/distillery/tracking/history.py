"""What a step did round by round, and where its time went: `history.json` beside its checkpoints, format `distillery-history`.

While the step works, its rounds lie in blocks in `history/` instead, so that a save writes no more the more rounds there were.

Seconds are observations: they differ from run to run, so they stand here and in no bundle, set, checkpoint or key.
"""

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from distillery.config import Config
from distillery.documents import Format
from distillery.provenance import Provenance, code_version
from distillery.storage import Store

FORMAT = Format("distillery-history", 2, "delete it to go on without")
FILE = "history.json"
FOLDER = "history"
WORST = "worst/"
"""Stands before a loss term that is the largest of several tasks', where the term itself is their mean."""
BLOCK = 64
"""Rounds of a file of a step that is not over: the last one is written anew with each save, those before it never."""


class Entry(Config):
    """One round or epoch.

    Attributes:
        numbers: its terms and scores by name, such as `synthesis/moments`, `gradient/moments`, `student/kd` and `holdout/agreement`.
        seconds: wall seconds by part: `synthesis`, `io`, `student`, `check` and `other`.
    """

    numbers: dict[str, float] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)


class History(Config):
    """All rounds of a step.

    Attributes:
        rounds: in order, from the first.
        after: seconds after the last round, when outputs are written.
    """

    rounds: tuple[Entry, ...] = ()
    after: dict[str, float] = Field(default_factory=dict)

    def seconds(self) -> dict[str, float]:
        """Seconds of the whole step by part."""
        total: dict[str, float] = {}
        for part in (*(entry.seconds for entry in self.rounds), self.after):
            _add(total, part)
        return total

    def names(self, prefix: str) -> list[str]:
        """Names of the numbers that begin with `prefix`, in the order in which they first appear."""
        found = dict.fromkeys(name for entry in self.rounds for name in entry.numbers if name.startswith(prefix))
        return list(found)

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(round, value) of every round that has the number, rounds counted from 1."""
        return [(float(number), entry.numbers[name]) for number, entry in enumerate(self.rounds, start=1) if name in entry.numbers]


def together(histories: Sequence[History]) -> History:
    """One history of tasks that did the same side by side, such as the shards of an ensemble; of one its own.

    A number of a round is its mean over those that have it, and `worst/` before a loss term the largest of theirs; seconds add up.

    Args:
        histories: of at least one task; one that ended earlier is left out of the rounds that it does not have.
    """
    if len(histories) == 1:
        return histories[0]
    rounds = []
    for number in range(max((len(history.rounds) for history in histories), default=0)):
        entries = [history.rounds[number] for history in histories if number < len(history.rounds)]
        names = dict.fromkeys(name for entry in entries for name in entry.numbers)
        values = {name: [entry.numbers[name] for entry in entries if name in entry.numbers] for name in names}
        numbers = {name: math.fsum(found) / len(found) for name, found in values.items()}
        worst = {f"{WORST}{name}": max(found) for name, found in values.items() if name.startswith("synthesis/")}
        seconds: dict[str, float] = {}
        for entry in entries:
            _add(seconds, entry.seconds)
        rounds.append(Entry(numbers={**numbers, **worst}, seconds=seconds))
    after: dict[str, float] = {}
    for history in histories:
        _add(after, history.after)
    return History(rounds=tuple(rounds), after=after)


def write_history(store: Store, rounds: Sequence[Entry], before: int = 0) -> None:
    """Write what is known after some rounds.

    Args:
        store: of the step's checkpoints, below its key.
        rounds: those that the store does not hold, and those before them in their block.
        before: how many come before these, whole blocks.
    """
    assert before % BLOCK == 0, "only whole blocks are left as they are"
    for start in range(0, len(rounds), BLOCK):
        _write(store, _block((before + start) // BLOCK), History(rounds=tuple(rounds[start : start + BLOCK])))


def resume_history(store: Store, done: int) -> tuple[tuple[Entry, ...], int]:
    """The rounds of a step that goes on.

    Args:
        store: of the step's checkpoints, below its key.
        done: rounds that the checkpoint holds; a killed run may have written more, and a damaged history may hold fewer.

    Returns:
        The rounds, at most `done`, and how many of them need not be written again.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: it is of a newer version than this code reads.
    """
    rounds = read_history(store).rounds[:done]
    return rounds, done if len(rounds) == done and not store.exists(FILE) else 0


def clear_history(store: Store) -> None:
    """Forget what a run left that begins anew."""
    for key in (FILE, *store.list(FOLDER)):
        store.delete(key)


def close_history(store: Store, after: Mapping[str, float]) -> None:
    """Add what came after the last round; the step is over, and its history one file."""
    _write(store, FILE, read_history(store).model_copy(update={"after": dict(after)}))
    for key in store.list(FOLDER):
        store.delete(key)


def read_history(store: Store) -> History:
    """The history in a step's checkpoints, empty where there is none; of a step that is not over as far as it has come.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: it is of a newer version than this code reads.
    """
    blocks: list[History] = []
    while not blocks or len(blocks[-1].rounds) == BLOCK:  # one that is not full is the last; a killed run may have left others
        if not store.exists(key := _block(len(blocks))):
            break
        blocks.append(_read(store, key))
    if not blocks:
        return _read(store, FILE) if store.exists(FILE) else History()
    return History(rounds=tuple(entry for block in blocks for entry in block.rounds))


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those that JSON can hold."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _block(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _read(store: Store, key: str) -> History:
    where = f"The history {key} in {store.uri!r}"
    return FORMAT.read(store.read(key), where).parse(History)


def _write(store: Store, key: str, history: History) -> None:
    store.write(key, FORMAT.write(Provenance(code_version=code_version()), history.to_json()))


def _add(total: dict[str, float], part: Mapping[str, float]) -> None:
    for name, seconds in part.items():
        total[name] = total.get(name, 0.0) + seconds
