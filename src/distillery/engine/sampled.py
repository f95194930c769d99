"""What a set keeps of images that pass by only once: a uniform sample of them, in room that does not grow with the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillery.config import Config
from distillery.data.pool import NO_LABEL, ImagePool
from distillery.data.shards import Role
from distillery.documents import Format
from distillery.engine.growing import ADVICE, anew
from distillery.engine.recorded import Ground, RecordedPool, rows
from distillery.errors import MissingResourceError, StoreError
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.seeding import stream
from distillery.storage import Store
from distillery.tensor_files import read_tensors, write_tensors
from distillery.types import ImageSpec

FORMAT = Format("distillery-sample", 1, ADVICE)
"""Holds no hash of itself: a file is named by that of its bytes, and read only by a checkpoint that names it."""
FOLDER = "sample"
SHARD_IMAGES = 2048


class Reservoir:
    """A uniform sample without replacement of all images that were offered, in the room of `capacity`.

    The i-th image is kept with probability min(1, capacity / i), in the place of a random one where the room is full. Which one is drawn
    on the CPU: nothing waits for the device.

    Args:
        spec: of the images.
        device: where they live.
        capacity: 1 or more.
        draws: CPU stream; drawn from once an image, and only when the room is full.

    Attributes:
        pool: the sample.
        seen: images that were offered.

    Source: algorithm R, Vitter, "Random Sampling with a Reservoir", ACM TOMS 11 (1985).
    """

    def __init__(self, spec: ImageSpec, device: torch.device | str, capacity: int, draws: torch.Generator) -> None:
        self.pool = ImagePool(spec, device)
        self.seen = 0
        self.draws = draws
        self._capacity = capacity
        self._changed: set[int] = set()

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Let some images pass by.

        Args:
            images: (n, C, H, W) uint8.
            labels: (n,) int64.
        """
        free = min(self._capacity - len(self.pool), len(images))
        self._changed.update(range(len(self.pool), len(self.pool) + free))
        self.pool.append(images[:free], labels[:free])
        first, self.seen = self.seen + free, self.seen + len(images)
        if free == len(images):
            return
        # float64: a draw of float32 has 24 bits, so of more than 16 million images some could never be drawn
        numbers = torch.arange(first + 1, self.seen + 1, dtype=torch.float64)
        drawn = (torch.rand(len(numbers), generator=self.draws, dtype=torch.float64) * numbers).long().tolist()
        # of two that are drawn for one place the later one is there in the end
        taken = {place: free + row for row, place in enumerate(drawn) if place < self._capacity}
        if taken:
            places, chosen = torch.tensor(list(taken)), torch.tensor(list(taken.values()))
            self.pool.replace(places, images[chosen.to(images.device)], labels[chosen.to(labels.device)])
            self._changed.update(taken)

    def changes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Places (n,) that have other images than at the last call, in order, with their images and labels; all on the CPU."""
        places = torch.tensor(sorted(self._changed), dtype=torch.int64)
        self._changed.clear()
        here = places.to(self.pool.device)
        return places, self.pool.images[here].cpu(), self.pool.labels[here].cpu()

    def put_back(self, places: Tensor, images: Tensor, labels: Tensor) -> None:
        """Repeat what `changes` once gave."""
        new = places >= len(self.pool)
        self.pool.append(images[new], labels[new])
        self.pool.replace(places[~new], images[~new], labels[~new])


class SamplePart(Config):
    """A file of what changed in a sample during some rounds, as a checkpoint names it."""

    sha256: str
    role: Role


@dataclass(frozen=True)
class Room:
    """Where a sample lies, and how large it is.

    Attributes:
        store: of the checkpoints; what changes from round to round lies in its `sample/` until the work is finished.
        images: of the sample, held-out ones included.
    """

    store: Store
    images: int


class SampledPool(RecordedPool):
    """A pool whose set holds a uniform sample of what passed by; `feed: round` and `feed: fresh`.

    A booked round leaves one file with the images that it brought into the sample; a checkpoint names these files, and a resume puts them
    back one after another. The set's shards are written at the end.

    Args:
        ground: as for any pool.
        room: of the sample.
    """

    def __init__(self, ground: Ground, room: Room) -> None:
        super().__init__(ground)
        held_out = min(max(round(room.images * ground.holdout), 1), room.images - 1) if ground.holdout else 0  # of two or more, one of each
        sizes: dict[Role, int] = {"train": room.images - held_out, "holdout": max(held_out, 1)}
        device = ground.teacher.mean.device
        self._samples = {
            role: Reservoir(ground.teacher.spec, device, size, stream(ground.seed, "record", role)) for role, size in sizes.items()
        }
        self.train, self.held_out = (self._samples[role].pool for role in ("train", "holdout"))
        self._store = room.store
        self._parts: list[SamplePart] = []
        self._answers = self._labeller.none(self._teacher)
        self._answered = -1  # of how many held-out images that passed by the answers are

    @property
    def seen(self) -> int:
        """Images that passed by the student."""
        return self._samples["train"].seen

    @property
    def replaces(self) -> bool:
        """Whether held-out images give way to others, so that scores on them are no longer comparable."""
        return self._samples["holdout"].seen > len(self.held_out)

    def book(self) -> dict[str, float]:
        """Write what the round brought into the sample.

        Returns:
            `synthesis/pool`, images to train on in the sample, `synthesis/seen`, those that passed by, and `synthesis/asked_agreement`,
            share of what the round brought into the sample that the teacher puts in the class asked for.
        """
        agreed: list[Tensor] = []
        for role, sample in self._samples.items():
            places, images, labels = sample.changes()
            if not len(places):
                continue
            with self.clock.part("io"):
                self._parts.append(self._write(role, places, images, labels))
            known = labels != NO_LABEL
            agreed.append(self._labeller.agrees(self._labeller.label(self._teacher, images[known]), labels[known].cpu()))
        numbers = {"synthesis/pool": float(len(self.train)), "synthesis/seen": float(self.seen)}
        if agreed and len(all_agreed := torch.cat(agreed)):
            numbers["synthesis/asked_agreement"] = float(all_agreed.double().mean())
        return numbers

    def held_out_answers(self) -> Tensor:
        """What is stored of the teacher's answers to `held_out`, on the CPU; of all in one order, so that a resumed run has the same."""
        if self._answered != (seen := self._samples["holdout"].seen):
            self._answers, self._answered = self._labeller.label(self._teacher, self.held_out.images).cpu(), seen
        return self._answers

    def conclude(self) -> None:
        """Write the sample as shards."""
        for role, sample in self._samples.items():
            answers = self._labeller.label(self._teacher, sample.pool.images).cpu()
            parts = (sample.pool.images.cpu(), sample.pool.labels.cpu(), answers)
            with self.clock.part("io"):
                for images, labels, said in zip(*(part.split(SHARD_IMAGES) for part in parts), strict=True):
                    if len(images):
                        self._writer.append(images, labels, said, role)

    def state_dict(self) -> dict[str, Any]:
        """The random streams, and how many images passed by."""
        samples = {role: {"seen": sample.seen, "draws": sample.draws.get_state()} for role, sample in self._samples.items()}
        return {**super().state_dict(), "samples": samples}

    def lists(self) -> dict[str, Sequence[Config]]:
        """The names of the files that hold the sample."""
        return {"sample": self._parts}

    def load_state_dict(self, state: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
        """Put the sample together again, each file verified.

        Raises:
            StoreError: a file of the sample is gone or damaged.
        """
        super().load_state_dict(state, {"entries": ()})
        self._parts = [SamplePart.parse(part) for part in lists["sample"]]
        for part in self._parts:
            self._samples[part.role].put_back(*self._read(part))
        for role, sample in self._samples.items():
            sample.seen = int(state["samples"][role]["seen"])
            sample.draws.set_state(state["samples"][role]["draws"])

    def _take(self, images: Tensor, asked: Tensor, withheld: Tensor) -> None:
        shown = rows(images, ~withheld)
        self.last_turn = ImagePool(self.train.spec, self.train.device, capacity=len(shown))
        self.last_turn.append(shown)
        self._samples["train"].offer(shown, rows(asked, ~withheld))
        self._samples["holdout"].offer(rows(images, withheld), rows(asked, withheld))

    def _write(self, role: Role, places: Tensor, images: Tensor, labels: Tensor) -> SamplePart:
        data = write_tensors(FORMAT, Provenance(code_version=code_version()), {}, {"places": places, "images": images, "labels": labels})
        part = SamplePart(sha256=sha256_bytes(data), role=role)
        self._store.write(_key(part), data)
        return part

    def _read(self, part: SamplePart) -> tuple[Tensor, Tensor, Tensor]:
        try:
            data = self._store.read(_key(part))
        except MissingResourceError:
            data = b""
        if sha256_bytes(data) != part.sha256:
            raise StoreError(f"The file {_key(part)!r} of a sample in {self._store.uri!r} is missing or damaged: {anew(self._store)}.")
        tensors = read_tensors(FORMAT, data, _key(part))[1]
        return tensors["places"], tensors["images"], tensors["labels"]


def _key(part: SamplePart) -> str:
    return f"{FOLDER}/{part.sha256}.safetensors"
