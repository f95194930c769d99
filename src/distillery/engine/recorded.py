"""The pool of an online run, written to its set as it grows: the set is exactly what the student was trained on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distillery.data.pool import NO_LABEL, ImagePool, quantize
from distillery.data.shards import Role, ShardEntry, read_shard
from distillery.data.store import SetHeader, SetReference, SetWriter, split_holdout
from distillery.engine.labelling import teacher_logits
from distillery.engine.session import Review
from distillery.engine.stopwatch import Stopwatch
from distillery.seeding import stream
from distillery.storage import Store
from distillery.types import Batch, Classifier


class RecordedPool:
    """Images in memory, each of them also in a shard.

    Args:
        store: the store below the set's prefix.
        header: what is known of the set.
        teacher: frozen, on its device; the pool lives there too.
        holdout: share of each round's images that no student trains on.
        seed: the run's.
    """

    def __init__(self, store: Store, header: SetHeader, teacher: Classifier, holdout: float, seed: int) -> None:
        self.train = ImagePool(teacher.spec, teacher.mean.device)
        self.last_round = ImagePool(teacher.spec, teacher.mean.device)
        self.held_out = ImagePool(teacher.spec, teacher.mean.device)
        self.clock = Stopwatch()
        self._held_out_logits: list[Tensor] = []
        self._writer = SetWriter(store, header)
        self._teacher = teacher
        self._holdout = holdout
        self._draws = stream(seed, "holdout")

    def add(self, batch: Batch, shown: bool = True) -> dict[str, float]:
        """Add one round's images, as one shard, and one more where some are withheld.

        Args:
            batch: float images in [0, 1]; they are rounded to 256 levels first.
            shown: whether the student is shown those that are not withheld; else these are dropped.

        Returns:
            `pool`, images to train on so far, and `asked_agreement`, share that the teacher puts in the class asked for.
        """
        images = quantize(batch.images)
        asked = torch.full((len(images),), NO_LABEL) if batch.labels is None else batch.labels.cpu()
        withheld = split_holdout(len(images), self._holdout, self._draws)
        if not shown:
            images, asked, withheld = images[withheld.to(images.device)], asked[withheld], withheld[withheld]
        return self._record(images, asked, withheld)

    def add_seen(self, seen: ImagePool) -> dict[str, float]:
        """Add images that the student has just been trained on, as one shard; returns what `add` does."""
        return self._record(seen.images, seen.labels.cpu(), torch.zeros(len(seen), dtype=torch.bool))

    def _record(self, images: Tensor, asked: Tensor, withheld: Tensor) -> dict[str, float]:
        logits = teacher_logits(self._teacher, images).cpu()
        parts: tuple[tuple[Role, Tensor], ...] = (("train", ~withheld), ("holdout", withheld))
        self.last_round = ImagePool(self.train.spec, self.train.device)
        for role, chosen in parts:
            if bool(chosen.any()):
                with self.clock.part("io"):
                    self._writer.append(images[chosen.to(images.device)].cpu(), asked[chosen], logits[chosen], role)
                self._remember(role, images[chosen.to(images.device)], logits[chosen])
        numbers = {"pool": float(len(self.train))}
        known = asked != NO_LABEL
        if bool(known.any()):
            numbers["asked_agreement"] = float((logits.argmax(1) == asked)[known].double().mean())
        return numbers

    def held_out_logits(self) -> Tensor:
        """The teacher's logits (N, K) of `held_out`, on the CPU."""
        return torch.cat([torch.empty(0, self._teacher.num_classes), *self._held_out_logits])

    def review(self, review: Review) -> None:
        """Show the shards to somebody who may refuse them."""
        review(self._writer.store, self._writer.entries)

    def manifest(self) -> bytes:
        """The file that makes the shards a set, for `publish_manifest`."""
        return self._writer.manifest()

    def publish(self) -> SetReference:
        """Make the shards a set."""
        return self._writer.publish()

    def state_dict(self) -> dict[str, Any]:
        """The names of the shards, not their bytes, and the random stream."""
        return {"entries": [entry.to_json() for entry in self._writer.entries], "draws": self._draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read the named shards back, each verified.

        Raises:
            MissingResourceError: a shard is gone.
            StoreError: a shard is damaged.
        """
        entries = [ShardEntry.parse(entry) for entry in state["entries"]]
        self._writer = SetWriter(self._writer.store, self._writer.header, entries)
        self._draws.set_state(state["draws"])
        for entry in entries:
            shard = read_shard(self._writer.store, entry)
            self._remember(entry.role, shard.images, shard.teacher_logits)

    def _remember(self, role: Role, images: Tensor, logits: Tensor) -> None:
        if role == "holdout":
            self.held_out.append(images)
            self._held_out_logits.append(logits)
            return
        self.train.append(images)
        self.last_round.append(images)
