"""Images that live on the device as uint8 and are drawn in shuffled passes."""

from collections.abc import Iterator
from typing import Literal, overload

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.types import ImageSpec

NO_LABEL = -1  # stands where an image was asked for no class


def quantize(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8: the nearest of 256 levels, values outside clipped."""
    return (images.detach().float() * 255).round_().clamp_(0, 255).to(torch.uint8)


def dequantize(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; `quantize` gives the same uint8 back."""
    return images.float().div_(255)


class ImagePool:
    """Growing set of images, uint8 on one device, each with an int64 label (-1 where it has none).

    Args:
        spec: shape of the images.
        device: where they live.
        capacity: images to make room for at once; the room doubles whenever it is full.
    """

    def __init__(self, spec: ImageSpec, device: torch.device | str = "cpu", capacity: int = 0) -> None:
        self.spec = spec
        self._images = torch.empty((capacity, *spec.shape), dtype=torch.uint8, device=device)
        self._labels = torch.empty((capacity,), dtype=torch.int64, device=device)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def device(self) -> torch.device:
        """Where the images live."""
        return self._images.device

    @property
    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8, oldest first; a view, not to be written to."""
        return self._images[: self._size]

    @property
    def labels(self) -> Tensor:
        """Their labels, (N,) int64; a view, not to be written to."""
        return self._labels[: self._size]

    def append(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Add images.

        Args:
            images: (N, C, H, W), uint8, or a floating type in [0, 1], which is rounded to 256 levels.
            labels: (N,) integers; None marks them as unlabelled.

        Raises:
            ConfigError: images of another shape, or labels that are not one an image.
        """
        if images.shape[1:] != self.spec.shape:
            raise ConfigError(f"The pool holds images of shape {list(self.spec.shape)}, not {list(images.shape[1:])}: resize them first.")
        if labels is not None and labels.shape != images.shape[:1]:
            raise ConfigError(f"{len(images)} images need labels of shape [{len(images)}], not {list(labels.shape)}: give one an image.")
        end = self._size + len(images)
        self._reserve(end)
        self._images[self._size : end] = images if images.dtype == torch.uint8 else quantize(images)
        self._labels[self._size : end] = NO_LABEL if labels is None else labels
        self._size = end

    def replace(self, places: Tensor, images: Tensor, labels: Tensor) -> None:
        """Put other images in some places.

        Args:
            places: (n,) int64, each below the size and none twice.
            images: (n, C, H, W) uint8.
            labels: (n,) int64.
        """
        here = places.to(self.device)
        self._images[here] = images.to(self.device)
        self._labels[here] = labels.to(self.device)

    @overload
    def draw(self, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]: ...
    @overload
    def draw(
        self, batch: int, steps: int, generator: torch.Generator, *, with_indices: Literal[True]
    ) -> Iterator[tuple[Tensor, Tensor]]: ...

    def draw(
        self, batch: int, steps: int, generator: torch.Generator, *, with_indices: bool = False
    ) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        """Batches from passes over the pool without replacement, each pass shuffled anew.

        A batch may end one pass and begin the next, so every batch is full even where the pool is smaller than it. The images are
        those of the moment of the call; later ones join the next call.

        Args:
            batch: images a batch.
            steps: how many batches.
            generator: decides the order, and nothing else does; it is drawn from as the passes begin.
            with_indices: give pairs of images and their places in the pool, (batch,) int64.

        Yields:
            (batch, C, H, W) float32 in [0, 1], made as it is asked for.

        Raises:
            ConfigError: the pool is empty.
        """
        if not self._size:
            raise ConfigError("The image pool is empty, so nothing can be drawn: synthesize first (a longer run, a shorter warm-up).")
        images = self.images
        # an asynchronous copy towards the host could be read before it is there
        asynchronous = self.device.type == "cuda"
        indices = (index.to(self.device, non_blocking=asynchronous) for index in passes(self._size, batch, steps, generator))
        if with_indices:
            return ((dequantize(images[index]), index) for index in indices)
        return (dequantize(images[index]) for index in indices)

    def _reserve(self, size: int) -> None:
        if size <= len(self._images):
            return
        room = max(size, 2 * len(self._images))
        for name in ("_images", "_labels"):
            old: Tensor = getattr(self, name)
            new = old.new_empty((room, *old.shape[1:]))
            new[: self._size] = old[: self._size]
            setattr(self, name, new)


def passes(num: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches from shuffled passes without replacement; int64 on the generator's device.

    A pass is shuffled whole, unless all that is asked for is less than a sixteenth of one: then that much is drawn, whatever the
    size.

    Args:
        num: indices are below it.
        batch: indices of each batch.
        steps: how many batches.
        generator: decides which.
    """
    if 16 * batch * steps < num:
        yield from _draw_some(num, batch * steps, generator).split(batch) if steps else ()
        return
    rest = torch.empty(0, dtype=torch.int64, device=generator.device)
    for _ in range(steps):
        while len(rest) < batch:
            rest = torch.cat([rest, torch.randperm(num, generator=generator, device=generator.device)])
        yield rest[:batch]
        rest = rest[batch:]


def _draw_some(num: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different indices below `num`, of which it is a small part: of independent draws the first of each value, in their order."""
    drawn = torch.empty(0, dtype=torch.int64, device=generator.device)
    while True:
        drawn = torch.cat([drawn, torch.randint(num, (count + 8,), generator=generator, device=generator.device)])
        ordered, order = drawn.sort(stable=True)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        places = order[is_first].sort().values
        if len(places) >= count:
            return drawn[places[:count]]
