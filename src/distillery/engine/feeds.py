"""Where a student's batches come from; the trainer does not know which."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from distillery.data.pool import NO_LABEL, ImagePool, dequantize, quantize
from distillery.engine.stopwatch import Stopwatch
from distillery.synthesis.protocol import Synthesizer
from distillery.types import Batch, Classifier


class Feed(Protocol):
    """A source of batches."""

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Exactly `steps` batches of exactly `batch` images.

        Args:
            batch: images a step.
            steps: how many.
            draws: CPU stream that decides the order.
        """
        ...


@dataclass(frozen=True)
class PoolFeed:
    """Shuffled passes over a pool, without labels: what an image was asked for is not what it shows.

    Attributes:
        pool: all images, or those of one round.
    """

    pool: ImagePool

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Batches without replacement within each pass."""
        return (Batch(images) for images in self.pool.draw(batch, steps, draws))


@dataclass(frozen=True)
class LabelledFeed:
    """Shuffled passes over real images with their labels.

    Attributes:
        pool: images appended with labels.
    """

    pool: ImagePool

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Batches with labels, without replacement within each pass."""
        labels = self.pool.labels
        return (Batch(images, labels[chosen]) for images, chosen in self.pool.draw(batch, steps, draws, with_indices=True))


def ood_images(batch: int, share: float) -> int:
    """How many images of a batch come from another domain.

    Args:
        batch: images of the whole batch, 2 or more.
        share: above 0 and below 1.

    Returns:
        The share, rounded; each part has at least one image.
    """
    return min(max(round(share * batch), 1), batch - 1)


def own_images(batch: int, share: float) -> int:
    """How many images of a batch come from the feed itself, where a share of it, which may be 0, is of another domain."""
    return batch - ood_images(batch, share) if share else batch


@dataclass(frozen=True)
class MixedFeed:
    """A share of each batch from another domain, the rest from another feed.

    Attributes:
        feed: of the rest.
        ood: images of the other domain; they are drawn in shuffled passes.
        share: of a batch, above 0 and below 1; rounded to whole images, and each part has at least one.
        draws: CPU stream that decides which are drawn; the rest is drawn by the feed's own.
    """

    feed: Feed
    ood: ImagePool
    share: float
    draws: torch.Generator

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Batches whose last images are those of the other domain; where the rest is labelled, these have no label (-1)."""
        # drawn from a stream of their own: how many are taken changes nothing in the order of the rest
        others = ood_images(batch, self.share)
        rest = self.feed.batches(batch - others, steps, draws)
        for known, other in zip(rest, self.ood.draw(others, steps, self.draws), strict=True):
            images = torch.cat([known.images.to(other.device), other])
            if known.labels is None:
                yield Batch(images)
            else:
                yield Batch(images, torch.cat([known.labels, known.labels.new_full((others,), NO_LABEL)]))


@dataclass(frozen=True)
class FreshFeed:
    """New images each step, from a live synthesizer.

    Attributes:
        synthesizer: draws from its own stream, not from the feed's.
        student: handed to it.
        clock: told how long the images take.
        seen: takes every image that is handed out, with the class it was asked for; None keeps none.
    """

    synthesizer: Synthesizer
    student: Classifier
    clock: Stopwatch = field(default_factory=Stopwatch)
    seen: ImagePool | None = None

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        """Each batch is made when it is asked for, in 256 levels as a stored image would be."""
        for _ in range(steps):
            with self.clock.part("synthesis"):
                made = self.synthesizer.synthesize(batch, student=self.student)
                images = quantize(made.images)
                if self.seen is not None:
                    self.seen.append(images, made.labels)
            yield Batch(dequantize(images))
