"""Fill a synthetic set from a synthesizer, class by class as the teacher sees them.

A trained generator is sampled by `synthesize`. A method whose target is images has nothing to sample: each `advance` makes one batch from
nothing, for classes whose quota is open. Such a batch may take minutes, so each has a checkpoint and a line of loss terms of its own.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.data.manifest import SetHeader
from distillery.data.pool import NO_LABEL, quantize
from distillery.data.shards import Role, Shard, ShardEntry
from distillery.data.store import SetWriter
from distillery.engine.labelling import labeller_of
from distillery.engine.session import Review, Session, accept
from distillery.engine.terms import TurnWatch
from distillery.errors import ConfigError
from distillery.seeding import stream
from distillery.storage import Store
from distillery.synthesis.protocol import Synthesizer
from distillery.types import Batch, Classifier, ImageSpec

logger = logging.getLogger(__name__)

_GOLDEN = 0.6180339887498949


class QuotaConfig(Config):
    """How a set is filled whose size and use somebody else decides.

    Attributes:
        max_oversampling: raw images drawn are at most this many times the set's, up to the end of a batch that has to be made whole.
        strict: a shortfall is an error; else it is published in the manifest with a warning.
        shard_images: images of a shard; a checkpoint holds those that are not yet in one.
        max_bytes: pixels of the whole set, or of an online run's pool; more is refused before work begins.
    """

    max_oversampling: float = Field(default=10.0, ge=1)
    strict: bool = False
    shard_images: int = Field(default=2048, ge=1)
    max_bytes: int = Field(default=2**36, ge=1)


class SetConfig(QuotaConfig):
    """What a materialized set holds.

    Attributes:
        size: images of the whole set, held-out ones included; each class gets an equal quota by the teacher's argmax.
        batch: images asked of the synthesizer at a time; a method whose target is images makes as many as its own settings say.
        holdout: share of each class's images that no student trains on.
        labels: classes asked for: uniform leaves the draw to the synthesizer, missing asks for those whose quota is open. A method whose
            target is images is always asked for these, as many of each as are missing.
    """

    size: int = Field(default=10_000, ge=2)
    batch: int = Field(default=256, ge=2)
    holdout: float = Field(default=0.05, ge=0, le=0.5)
    labels: Literal["uniform", "missing"] = "uniform"


@dataclass(frozen=True)
class Materialized:
    """A finished set and how it came about.

    Attributes:
        manifest: the file that makes its shards a set, for `publish_manifest`.
        numbers: `images`, `holdout`, `drawn` raw images, `shortfall`, `asked_agreement` over all raw images (the teacher's argmax is the
            class asked for) and `set_agreement` over the images that were kept; the two only where classes were asked for.
    """

    manifest: bytes
    numbers: dict[str, float]


class Materializer:
    """Draws images until every class has its quota, or too many were drawn.

    Args:
        config: quotas and bounds.
        synthesizer: trained.
        teacher: frozen, on its device.
        seed: the run's.
        images_per_turn: of a method whose target is images; 0 samples a trained generator.
    """

    def __init__(self, config: SetConfig, synthesizer: Synthesizer, teacher: Classifier, seed: int, images_per_turn: int = 0) -> None:
        check_size(config, teacher.spec)
        self.config = config
        self.drawn = 0
        self._labelled = self._agreed = self._kept_agreed = 0
        self._synthesizer = synthesizer
        self._images_per_turn = images_per_turn
        self._teacher = teacher
        self._labeller = labeller_of(teacher.task)
        if not self._labeller.has_quotas:
            raise ConfigError(f"A set has a quota of each class, and an image of {teacher.task} is of several classes: give a classifier.")
        self._quota = quotas(config.size, teacher.num_classes)
        self._kept = torch.zeros_like(self._quota)
        self._draws = stream(seed, "materialize", "labels")
        self._buffers: dict[Role, Shard] = {"train": self._empty(), "holdout": self._empty()}

    def run(self, store: Store, header: SetHeader, session: Session, review: Review = accept) -> Materialized:
        """Fill the set; a half-written one is continued from its last shard.

        Args:
            store: below the set's prefix.
            header: what is known of the set.
            session: checkpoints name the shards and hold what is not yet in one, the counts and the synthesizer.
            review: sees the finished shards before they become a set.

        Raises:
            ConfigError: a term of a method whose target is images went bad; or, under `strict`, a class is short of its quota, or the
                review refuses the set.
        """
        state = session.resume()
        writer = SetWriter(store, header)
        if state is not None:
            writer = SetWriter(store, header, [ShardEntry.parse(entry) for entry in state["entries"]])
            self.load_state_dict(state)
        limit = int(self.config.size * self.config.max_oversampling)
        while self.drawn < limit and bool((self._kept < self._quota).any()):
            with session.clock.part("synthesis"):
                terms = self._draw(limit - self.drawn, session)
            filled = int(self._kept.sum())
            session.progress.tick("materialize: images", filled, self.config.size)
            with session.clock.part("io"):
                wrote = self._write_full(writer)
            if wrote or self._images_per_turn:
                numbers = {**terms, "drawn": float(self.drawn), "kept": float(filled)}
                session.note("materialize: images", self.config.size, numbers, done=filled)
                session.save(self.state_dict(), {"entries": writer.entries})
        shortfall = self._quota - self._kept
        self._check_shortfall(shortfall)
        with session.clock.part("io"):
            for role in ("train", "holdout"):
                self._write(writer, role, len(self._buffers[role].images))
        review(writer.store, writer.entries)
        manifest = writer.manifest(shortfall.tolist() if bool(shortfall.any()) else ())
        return Materialized(manifest, self._numbers(writer, shortfall))

    def state_dict(self) -> dict[str, Any]:
        """Counts, images not yet in a shard, random stream and synthesizer."""
        return {
            "counts": [self.drawn, self._labelled, self._agreed, self._kept_agreed],
            "kept": self._kept,
            "buffers": {role: list(shard) for role, shard in self._buffers.items()},
            "draws": self._draws.get_state(),
            "synthesizer": self._synthesizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.drawn, self._labelled, self._agreed, self._kept_agreed = state["counts"]
        self._kept = state["kept"]
        self._buffers = {role: Shard(*parts) for role, parts in state["buffers"].items()}
        self._draws.set_state(state["draws"])
        self._synthesizer.load_state_dict(state["synthesizer"])

    def _draw(self, room: int, session: Session) -> dict[str, float]:
        """Take one batch of raw images, and the loss terms that it was made under.

        Args:
            room: raw images that may still be drawn.
            session: whose history says which batch this is.
        """
        if self._images_per_turn:
            watch = TurnWatch(session.done + 1)
            turn = self._synthesizer.advance(None, self._missing(self._images_per_turn))
            watch.add(turn)
            terms = watch.read(session.history)
            assert turn.batch is not None, "a method whose target is images makes some in every turn"
            self._keep(turn.batch)
            return terms
        n = min(self.config.batch, room)
        self._keep(self._synthesizer.synthesize(n, self._labels(n)))
        return {}

    def _keep(self, batch: Batch) -> None:
        """Keep those raw images whose class is open, in the order they came."""
        # first to what is stored: the argmax of a close call may be another at 256 levels
        images = quantize(batch.images).cpu()
        answers = self._labeller.label(self._teacher, images).cpu()
        asked = torch.full((len(images),), NO_LABEL) if batch.labels is None else batch.labels.cpu()
        obtained = self._labeller.classes(answers)[1]
        # as if they came one by one: the first of a class fill its quota, whatever the size of a batch
        number = self._kept[obtained] + _ranks(obtained)
        keep = number <= self._quota[obtained]
        withheld = is_withheld(number, obtained, self.config.holdout)
        self.drawn += len(images)
        self._labelled += int((asked != NO_LABEL).sum())
        self._agreed += int((asked == obtained).sum())
        self._kept_agreed += int((asked == obtained)[keep].sum())
        self._kept = self._kept + torch.bincount(obtained[keep], minlength=len(self._kept))
        chosen: dict[Role, Tensor] = {"train": keep & ~withheld, "holdout": keep & withheld}
        for role, mask in chosen.items():
            parts = zip(self._buffers[role], (images, asked, answers), strict=True)
            self._buffers[role] = Shard(*(torch.cat([old, new[mask]]) for old, new in parts))

    def _empty(self) -> Shard:
        images = torch.empty((0, *self._teacher.spec.shape), dtype=torch.uint8)
        return Shard(images, torch.empty(0, dtype=torch.int64), self._labeller.none(self._teacher))

    def _labels(self, n: int) -> Tensor | None:
        if self.config.labels == "uniform":
            return None
        missing = (self._kept < self._quota).nonzero().flatten()
        return missing[torch.randint(len(missing), (n,), generator=self._draws)]

    def _missing(self, n: int) -> Tensor:
        """Classes of n images, each as often as images of it are missing, in random order; what is left over goes round among them.

        An inverted image costs thousands of passes, so no class is asked for by chance more often than it has room, and batch statistics
        must not see the classes in order.
        """
        missing = torch.arange(len(self._quota)).repeat_interleave(self._quota - self._kept)
        order = torch.randperm(len(missing), generator=self._draws)
        return missing[order[torch.arange(n) % len(missing)]]

    def _write_full(self, writer: SetWriter) -> bool:
        """Write every full shard, and say whether there was one."""
        before = len(writer.entries)
        for role, buffer in self._buffers.items():
            for _ in range(len(buffer.images) // self.config.shard_images):
                self._write(writer, role, self.config.shard_images)
        return len(writer.entries) > before

    def _write(self, writer: SetWriter, role: Role, count: int) -> None:
        if not count:
            return
        buffer = self._buffers[role]
        writer.append(buffer.images[:count], buffer.asked[:count], buffer.teacher_logits[:count], role)
        # cloned, or the checkpoint would hold the storage of the part that is gone
        self._buffers[role] = Shard(*(part[count:].clone() for part in buffer))

    def _check_shortfall(self, shortfall: Tensor) -> None:
        if not bool(shortfall.any()):
            return
        worst = ", ".join(f"{int(index)} ({int(shortfall[index])})" for index in shortfall.argsort(descending=True)[:5] if shortfall[index])
        sentence = (
            f"The set is short of {int(shortfall.sum())} of {self.config.size} images after {self.drawn} were drawn, most in classes "
            f"{worst}: raise max_oversampling, or {self._advice}."
        )
        if self.config.strict or not bool(self._kept.any()):
            raise ConfigError(sentence)
        logger.warning(sentence)

    @property
    def _advice(self) -> str:
        return "give the method more steps for each batch" if self._images_per_turn else "train the generator longer"

    def _numbers(self, writer: SetWriter, shortfall: Tensor) -> dict[str, float]:
        held_out = sum(entry.images for entry in writer.entries if entry.role == "holdout")
        kept = int(self._kept.sum())
        numbers = {"images": kept - held_out, "holdout": held_out, "drawn": self.drawn, "shortfall": int(shortfall.sum())}
        rates = {"asked_agreement": self._agreed / self._labelled, "set_agreement": self._kept_agreed / kept} if self._labelled else {}
        return {name: float(value) for name, value in (numbers | rates).items()}


def quotas(size: int, num_classes: int) -> Tensor:
    """Images of each class, (K,) int64 with sum `size`: equal, the remainder to classes spread evenly over all of them."""
    upto = -(torch.arange(num_classes + 1) * -size).div(num_classes, rounding_mode="floor")  # ceil(k * size / K)
    return upto.diff()


def is_withheld(number: Tensor, classes: Tensor, share: float) -> Tensor:
    """Which images are held out, as a fixed pattern over each class's images.

    Args:
        number: (N,) int64, the how-manieth of its class an image is, from 1.
        classes: (N,) int64. Each class's pattern begins elsewhere, so that small quotas hold out the share of all classes together.
        share: to hold out.

    Returns:
        (N,) bool.
    """
    # multiples of the golden ratio spread evenly over [0, 1) however many classes there are, and no draw has to be remembered
    phase = (classes.double() * _GOLDEN) % 1
    last = number.double() * share + phase
    return last.floor() > (last - share).floor()


def check_size(config: SetConfig, spec: ImageSpec) -> None:
    """Refuse a set that is larger than allowed.

    Args:
        config: its size and the bound.
        spec: of its images, a byte a value.

    Raises:
        ConfigError: names the bytes and the bound.
    """
    channels, height, width = spec.shape
    size = config.size * channels * height * width
    if size > config.max_bytes:
        raise ConfigError(f"size = {config.size} makes {size} bytes of images, max_bytes = {config.max_bytes}: lower it or raise that.")


def _ranks(classes: Tensor) -> Tensor:
    """For each element the how-manieth of its class it is, from 1."""
    ordered, order = classes.sort(stable=True)
    ranks = torch.empty_like(classes)
    ranks[order] = torch.arange(1, len(classes) + 1) - torch.searchsorted(ordered, ordered)
    return ranks
