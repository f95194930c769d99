"""The pool of an online run, written to its set as it grows: the set is exactly what the student was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distillery.config import Config
from distillery.data.manifest import SetHeader
from distillery.data.pool import NO_LABEL, ImagePool, quantize
from distillery.data.shards import Role, Shard, ShardEntry, read_shard
from distillery.data.start import StartSet
from distillery.data.store import SetWriter, split_holdout
from distillery.engine.labelling import labeller_of
from distillery.engine.session import Review
from distillery.engine.stopwatch import Stopwatch
from distillery.seeding import stream
from distillery.storage import Store
from distillery.types import Batch, Classifier


class _Turn(NamedTuple):
    """What is written of a turn at its round's end: images and labels on the device, `withheld` on the CPU."""

    images: Tensor
    asked: Tensor
    withheld: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Ground:
    """What a pool grows on.

    Attributes:
        store: the store below the set's prefix.
        header: what is known of the set.
        teacher: frozen, on its device; the pool lives there too.
        holdout: share of each turn's images that no student trains on.
        seed: the run's.
    """

    store: Store
    header: SetHeader
    teacher: Classifier
    holdout: float
    seed: int


class RecordedPool:
    """Images in memory, each of them also in a shard once its round is booked.

    Args:
        ground: what it grows on.
    """

    def __init__(self, ground: Ground) -> None:
        teacher = ground.teacher
        self.train = ImagePool(teacher.spec, teacher.mean.device)
        self.last_turn = ImagePool(teacher.spec, teacher.mean.device)
        self.held_out = ImagePool(teacher.spec, teacher.mean.device)
        self.clock = Stopwatch()
        self._held_out_answers: list[Tensor] = []
        self._turns: list[_Turn] = []  # of the round that is not booked
        self._writer = SetWriter(ground.store, ground.header)
        self._teacher = teacher
        self._labeller = labeller_of(teacher.task)
        self._holdout = ground.holdout
        self._draws = stream(ground.seed, "holdout")

    def begin(self, start: StartSet) -> None:
        """Begin with a set made before; a run that is resumed has it already.

        Raises:
            StoreError: a shard is damaged, or the set cannot be written.
        """
        shards = start.begin(self._writer)
        for entry, shard in zip(self._writer.entries, shards, strict=True):
            self._remember(entry.role, shard)

    def add(self, batch: Batch, shown: bool = True) -> None:
        """Add one turn's images; `book` writes them.

        Args:
            batch: float images in [0, 1]; they are rounded to 256 levels first.
            shown: whether the student is shown those that are not withheld; else these are dropped.
        """
        images = quantize(batch.images)
        asked = torch.full((len(images),), NO_LABEL) if batch.labels is None else batch.labels
        withheld = split_holdout(len(images), self._holdout, self._draws)
        if not shown:
            images, asked, withheld = rows(images, withheld), rows(asked, withheld), withheld[withheld]
        self._take(images, asked, withheld)

    def add_seen(self, seen: ImagePool) -> None:
        """Add images that the student has just been trained on."""
        self._take(seen.images, seen.labels, torch.zeros(len(seen), dtype=torch.bool))

    def book(self) -> dict[str, float]:
        """Write the images of a round's turns as one shard, and one more where some are withheld.

        Returns:
            `synthesis/pool`, images to train on so far, and `synthesis/asked_agreement`, share of the round's that the teacher puts in the
            class asked for; nothing where the round had none.
        """
        turns, self._turns = self._turns, []
        if not turns:
            return {}
        asked, withheld = torch.cat([turn.asked.cpu() for turn in turns]), torch.cat([turn.withheld for turn in turns])
        answers = torch.cat([turn.answers for turn in turns]).cpu()
        images = torch.cat([turn.images for turn in turns])
        parts: dict[Role, Tensor] = {"train": ~withheld, "holdout": withheld}
        first = {role: next((i for i, turn in enumerate(turns) if bool((turn.withheld == (role == "holdout")).any())), 0) for role in parts}
        for role in sorted(parts, key=lambda role: first[role]):
            chosen = parts[role]
            if bool(chosen.any()):
                picked = rows(images, chosen)
                with self.clock.part("io"):
                    self._writer.append(picked.cpu(), asked[chosen], answers[chosen], role)
                if role == "holdout":
                    self._hold_out(picked, answers[chosen])
        numbers = {"synthesis/pool": float(len(self.train))}
        known = asked != NO_LABEL
        if bool(known.any()):
            numbers["synthesis/asked_agreement"] = float(self._labeller.agrees(answers, asked)[known].double().mean())
        return numbers

    @property
    def seen(self) -> int:
        """Images that passed by the student and of which the set holds a sample; 0 where it holds all."""
        return 0

    @property
    def replaces(self) -> bool:
        """Whether held-out images give way to others, so that scores on them are no longer comparable."""
        return False

    def conclude(self) -> None:
        """Write what a round does not; the last one is over."""

    def held_out_answers(self) -> Tensor:
        """What is stored of the teacher's answers to `held_out`, on the CPU."""
        return torch.cat([self._labeller.none(self._teacher), *self._held_out_answers])

    def review(self, review: Review) -> None:
        """Show the shards to somebody who may refuse them."""
        review(self._writer.store, self._writer.entries)

    def manifest(self) -> bytes:
        """The file that makes the shards a set, for `publish_manifest`."""
        return self._writer.manifest(seen=self.seen)

    def state_dict(self) -> dict[str, Any]:
        """The random stream."""
        return {"draws": self._draws.get_state()}

    def lists(self) -> dict[str, Sequence[Config]]:
        """The rest of the state, which only grows: the names of the shards, not their bytes."""
        return {"entries": self._writer.entries}

    def load_state_dict(self, state: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
        """Read the named shards back, each verified.

        Args:
            state: as `state_dict` gave it.
            lists: as `lists` gave them, among others.

        Raises:
            MissingResourceError: a shard is gone.
            StoreError: a shard is damaged.
        """
        entries = [ShardEntry.parse(entry) for entry in lists["entries"]]
        self._writer = SetWriter(self._writer.store, self._writer.header, entries)
        self._draws.set_state(state["draws"])
        for entry in entries:
            self._remember(entry.role, read_shard(self._writer.store, entry))

    def _take(self, images: Tensor, asked: Tensor, withheld: Tensor) -> None:
        shown = rows(images, ~withheld)
        self.train.append(shown)
        self.last_turn = ImagePool(self.train.spec, self.train.device, capacity=len(shown))
        self.last_turn.append(shown)
        if len(images):
            # answered turn by turn, in batches that a resumed run has too; read from the device once a round
            self._turns.append(_Turn(images, asked, withheld, self._labeller.label(self._teacher, images)))

    def _remember(self, role: Role, shard: Shard) -> None:
        if role == "holdout":
            self._hold_out(shard.images, shard.teacher_logits)
        else:
            self.train.append(shard.images)

    def _hold_out(self, images: Tensor, answers: Tensor) -> None:
        self.held_out.append(images)
        self._held_out_answers.append(answers)


def rows(values: Tensor, chosen: Tensor) -> Tensor:
    """The rows that a mask on the CPU chooses; by their numbers, because a mask would make the device wait.

    Args:
        values: (N, ...), on any device.
        chosen: (N,) bool, on the CPU.
    """
    return values[chosen.nonzero().flatten().to(values.device)]
