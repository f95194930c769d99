"""What a step did round by round, and where its time went: `history.json` beside its checkpoints, format `distillery-history`.

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


def write_history(store: Store, numbers: Sequence[Mapping[str, float]], seconds: Sequence[Mapping[str, float]]) -> None:
    """Write what is known after some rounds; numbers that are not finite are left out.

    Args:
        store: of the step's checkpoints, below its key.
        numbers: of every round.
        seconds: of every round.
    """
    rounds = tuple(
        Entry(numbers={name: value for name, value in told.items() if math.isfinite(value)}, seconds=dict(took))
        for told, took in zip(numbers, seconds, strict=True)
    )
    _write(store, History(rounds=rounds))


def close_history(store: Store, after: Mapping[str, float]) -> None:
    """Add what came after the last round; the step is over."""
    _write(store, read_history(store).model_copy(update={"after": dict(after)}))


def read_history(store: Store) -> History:
    """The history in a step's checkpoints, empty where there is none.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: it is of a newer version than this code reads.
    """
    if not store.exists(FILE):
        return History()
    where = f"The history {FILE} in {store.uri!r}"
    return FORMAT.read(store.read(FILE), where).parse(History)


def _write(store: Store, history: History) -> None:
    store.write(FILE, FORMAT.write(Provenance(code_version=code_version()), history.to_json()))


def _add(total: dict[str, float], part: Mapping[str, float]) -> None:
    for name, seconds in part.items():
        total[name] = total.get(name, 0.0) + seconds
