"""What methods that optimise images share: the loop over one batch, its views, the best images, state and streams."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from distillery.config import Beta
from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.numerics import clamp_through, full_precision
from distillery.seeding import stream
from distillery.synthesis.common import check_labels, draw_labels, in_full_batches, only_looked_at
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.protocol import SAMPLING, Ingredients, Turn
from distillery.synthesis.recorder import TermRecorder, is_diagnosed
from distillery.types import Batch, Classifier


@dataclass(frozen=True)
class Pass:
    """A part of a batch's steps, with an optimizer of its own.

    Attributes:
        steps: how many.
        pooling: the views are averages of so many by so many pixels; 1 is full resolution.
    """

    steps: int
    pooling: int = 1


class InversionConfig(MethodConfig):
    """Settings of images made from noise by gradients on their pixels; a method adds the weights of its terms.

    Attributes:
        batch: images made at once.
        steps: of Adam on a batch, at full resolution.
        rate: Adam's rate, on pixels in the teacher's normalised space.
        betas: Adam's momenta.
        jitter: each step the batch is rolled by up to so many pixels either way, in height and in width; one offset for all of it.
        flip: each step the batch is mirrored left to right with probability 1/2.
        clip: after each step pixels are cut to what an image in [0, 1] can be; else they may wander outside, while the teacher sees them
            clamped and gradients pass straight through.
    """

    batch: int = Field(default=256, ge=2)
    steps: int = Field(default=2000, ge=1)
    rate: float = Field(default=0.1, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    jitter: int = Field(default=2, ge=0)
    flip: bool = False
    clip: bool = False

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The parts of a batch's steps in their order; the last one is at full resolution."""
        return (Pass(self.steps),)

    def rate_at(self, step: int, steps: int) -> float:
        """Adam's rate.

        Args:
            step: of a pass, from 0.
            steps: of that pass.
        """
        return self.rate

    @property
    def images_per_turn(self) -> int:
        """A batch."""
        return self.batch

    @property
    def steps_per_turn(self) -> int:
        """Of Adam."""
        return self.steps

    def cut(self, images: int, steps: int) -> Self:
        """Fewer steps on fewer images."""
        return self.model_copy(update={"batch": images, "steps": steps})


Settings = TypeVar("Settings", bound=InversionConfig)


@dataclass(frozen=True)
class View:
    """What one step's terms are of: a rolled, mirrored, perhaps pooled batch, with the graph down to its pixels.

    Attributes:
        pixels: (N, C, h, w) in the teacher's normalised space, on which priors are measured.
        images: (N, C, h, w) in [0, 1], as the networks get them.
        labels: (N,) int64, the classes asked for.
    """

    pixels: Tensor
    images: Tensor
    labels: Tensor


@torch.no_grad()
def check_pooled(network: Classifier, whose: str, pooling: int, setting: str) -> None:
    """Refuse a pass of pooled views through a network that takes images of its own size alone.

    Args:
        network: teacher or student.
        whose: which of them, as the sentence names it.
        pooling: of the pass.
        setting: that asks for it, and whose 0 does without.

    Raises:
        ConfigError: the network fails on images of that size.
    """
    channels, height, width = (network.spec.channels, network.spec.height // pooling, network.spec.width // pooling)
    try:
        with guarded(f"The {whose} fails", "leave its images whole"):
            network(network.arrange(torch.zeros(2, channels, height, width, device=network.mean.device)))
    except ConfigError as error:
        raise ConfigError(
            f"{setting} shows the {whose} images of {height}x{width}, and it takes {network.spec.height}x{network.spec.width} alone: "
            f"set {setting} to 0."
        ) from error


class InversionSynthesizer(ABC, Generic[Settings]):
    """Images made from noise by gradients on their pixels, as a `Synthesizer`; a method says in `terms` what is minimised.

        x* = argmin sum of the terms of view(x),    x ~ N(0, 1) at the start, in the teacher's normalised space

    Each turn makes one batch from nothing. Of the last pass the images of the step with the lowest loss are kept: a copy, which no later
    step changes. Losses of other resolutions say nothing about those of the full one.

    Args:
        name: of the method's catalog row; its random streams are named by it.
        config: its settings.
        ingredients: what it is built from.

    Attributes:
        config: its settings.
        teacher: frozen.
        runtime: device and precision; a pass of a network belongs under `runtime.autocast()`.
    """

    def __init__(self, name: str, config: Settings, ingredients: Ingredients) -> None:
        self.config = config
        self.teacher = ingredients.teacher
        self.runtime = ingredients.runtime
        self._learning = stream(ingredients.seed, name, "learning")
        self._sampling = stream(ingredients.seed, name, "sampling")
        self._diagnose = ingredients.diagnose
        self._turns = 0

    @abstractmethod
    def terms(self, view: View, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms of one step whose weight is above 0, 0-d with their graph.

        Args:
            view: of this step.
            student: the opponent in eval mode without gradients to its weights; None where there is none.

        Raises:
            ConfigError: without a student there is nothing to minimise.
        """

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """One batch from nothing.

        Args:
            student: the opponent, for a method that plays against one.
            labels: (n,) int64, the classes to make, any number of them; None draws a batch of them in which each class has its share.

        Returns:
            The terms of the last step, and the images (n, C, H, W) of the best one.

        Raises:
            ConfigError: nothing is left to minimise without a student.
        """
        self._turns += 1
        if labels is None:
            labels = self._draw(self.config.batch, self._learning)
        recorder = TermRecorder(self._diagnose and is_diagnosed(self._turns))
        labels = labels.to(self.runtime.device)
        images = self._invert(labels, student, self._learning, recorder)
        return recorder.turn(recorder.last(), Batch(images, labels))

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images by as many inversions of a full batch as that takes; the surplus is dropped.

        Args:
            n: how many images.
            labels: (n,) int64 classes to ask for; shuffled over the batches, since batch statistics must not see one class alone.
            student: as in `advance`.

        Raises:
            ConfigError: labels that do not fit, or nothing is left to minimise without a student.
        """
        device = self.runtime.device
        if labels is None:
            labels = self._draw(n, self._sampling)
        check_labels(labels, n, self.teacher.num_classes)
        if n == 0:
            return Batch(torch.empty(0, *self.teacher.spec.shape, device=device), labels.to(device))

        def make(part: Tensor) -> Tensor:
            return self._invert(part.to(device), student, self._sampling, TermRecorder())

        surplus = self._draw(-n % self.config.batch, self._sampling)
        return Batch(in_full_batches(labels, surplus, self.config.batch, self._sampling, make), labels.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Both random streams and the count of turns: nothing else outlives a batch."""
        return {"learning": self._learning.get_state(), SAMPLING: self._sampling.get_state(), "turns": self._turns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._learning.set_state(state["learning"])
        self._sampling.set_state(state[SAMPLING])
        self._turns = int(state["turns"])

    def _draw(self, n: int, draws: torch.Generator) -> Tensor:
        return draw_labels(n, self.teacher.num_classes, "balanced", draws)

    def _invert(self, labels: Tensor, student: Classifier | None, draws: torch.Generator, recorder: TermRecorder) -> Tensor:
        """Images (N, C, H, W) in [0, 1], detached, of the best step of the last pass."""
        config, device = self.config, self.runtime.device
        # on the CPU: a seed gives the same noise on every device
        start = torch.randn(len(labels), *self.teacher.spec.shape, generator=draws)
        pixels = self.teacher.arrange(start.to(device)).requires_grad_()
        best = pixels.detach().clone()
        # who asks for images may have switched gradients off
        with torch.enable_grad(), only_looked_at(student):
            for part in config.passes:
                # new for each pass: gradients of pooled views are of another size, and Adam's second moments would remember them
                optimizer = torch.optim.Adam([pixels], lr=config.rate, betas=config.betas, fused=device.type == "cuda")
                lowest = torch.full((), torch.inf, device=device)
                for step in range(part.steps):
                    optimizer.param_groups[0]["lr"] = config.rate_at(step, part.steps)
                    loss = recorder.add(self.terms(self._view(pixels, labels, part, draws), student), pixels)
                    # the loss is of the pixels before this step's update
                    better = loss.detach() < lowest
                    # torch.where copies; the pixels themselves change in place with every step
                    best = torch.where(better, pixels.detach(), best)
                    lowest = torch.where(better, loss.detach(), lowest)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    self._clip(pixels)
        return full_precision(self._shown(best))

    def _view(self, pixels: Tensor, labels: Tensor, part: Pass, draws: torch.Generator) -> View:
        """One step's look at the batch; the offset and the mirror are drawn on the CPU, the same on every device."""
        config = self.config
        seen = functional.avg_pool2d(pixels, part.pooling) if part.pooling > 1 else pixels
        if reach := config.jitter // part.pooling:
            down, right = torch.randint(-reach, reach + 1, (2,), generator=draws).tolist()
            # one offset for the batch, as published: images move against the teacher's grid, not against each other
            seen = torch.roll(seen, (down, right), dims=(2, 3))
        if config.flip and int(torch.randint(2, (), generator=draws)):
            seen = seen.flip(3)
        return View(seen, self._shown(seen), labels)

    def _shown(self, pixels: Tensor) -> Tensor:
        """The images that pixels of the normalised space stand for, clamped to [0, 1] with gradients straight through."""
        return clamp_through(pixels * self.teacher.std + self.teacher.mean)

    @torch.no_grad()
    def _clip(self, pixels: Tensor) -> None:
        if self.config.clip:
            teacher = self.teacher
            pixels.clamp_(-teacher.mean / teacher.std, (1 - teacher.mean) / teacher.std)
