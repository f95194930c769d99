"""Generators that learn together: their network, optimiser and random streams; one generator, or several as one network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distillery.models.generators.network import Generator
from distillery.numerics import full_precision
from distillery.optim.restore import restore_strides
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.protocol import SAMPLING, Ingredients

DrawLabels = Callable[[range, torch.Generator], Tensor]
"""The labels (B,) int64 of one generator's batch, of its classes, drawn from its stream."""
BuildNetwork = Callable[[int], Generator]
"""A fresh generator for a number of classes, drawn from torch's global stream."""


@dataclass(frozen=True)
class Generated:
    """One step's images and what they were made from; of G generators, folded with the generator outermost.

    Attributes:
        images: (G*B, C, H, W), float32 in [0, 1], with the generators' graph.
        labels: (G*B,) int64, the classes asked for.
        latent: (G*B, generator.latent), standard normal.
        draws: the random stream of each generator, G of them: whatever a loss draws for the images of one comes from its own.
    """

    images: Tensor
    labels: Tensor
    latent: Tensor
    draws: tuple[torch.Generator, ...]

    @property
    def groups(self) -> int:
        """G."""
        return len(self.draws)


class Learner:
    """Generators under one optimiser. Adam looks at each weight by itself, so each learns as it would alone.

    Args:
        network: images of latents (G*B, latent) and labels (G*B,); placed.
        config: Adam's settings and the size of z.
        classes: those of each generator.
        draws: the random stream of each.
        runtime: device and precision.
        beside: networks that learn by the same optimiser.
    """

    def __init__(
        self,
        network: nn.Module,
        config: ConditionalConfig,
        classes: Sequence[range],
        draws: Sequence[torch.Generator],
        runtime: Runtime,
        beside: Iterable[nn.Module] = (),
    ) -> None:
        self.network = network.train()
        self.classes, self.draws = tuple(classes), tuple(draws)
        learning = [parameter for module in (network, *beside) for parameter in module.parameters()]
        self.optimizer = torch.optim.Adam(learning, lr=config.rate, betas=config.betas, fused=runtime.device.type == "cuda")
        self._latent, self._runtime = config.generator.latent, runtime

    def generate(self, batch: int, draw_labels: DrawLabels) -> Generated:
        """B images of each generator; its labels, then its latents, are drawn from its own stream."""
        labels, latents = [], []
        for classes, draws in zip(self.classes, self.draws, strict=True):
            # a generator's draws in this order whatever learns beside it: a stack makes the images that each would make alone
            labels.append(draw_labels(classes, draws))
            latents.append(torch.randn(batch, self._latent, generator=draws))
        device = self._runtime.device
        asked, latent = torch.cat(labels).to(device), torch.cat(latents).to(device)
        with self._runtime.autocast():
            images: Tensor = self.network(latent, asked)
        return Generated(full_precision(images), asked, latent, self.draws)

    def learn(self, loss: Tensor) -> None:
        """One step of the optimiser; gradients are let go after it, so that only those who learn hold any."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Held(Protocol):
    """The generators that one synthesizer holds.

    Attributes:
        learners: of all of them, to be trained one after another.
        classes: that they can be asked for.
        sampling: the random stream of each, for images that nobody learns from.
    """

    learners: list[Learner]
    classes: range
    sampling: list[torch.Generator]

    def sample(self, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) of labels (N,) by a forward pass in eval mode."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step or sample depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


class Lone:
    """One generator of all classes.

    Args:
        name: of the method, which names the random streams.
        config: its settings.
        ingredients: teacher, runtime, seed.
        build: the network for a number of classes.
        beside: networks that learn with it, placed.
    """

    def __init__(
        self, name: str, config: ConditionalConfig, ingredients: Ingredients, build: BuildNetwork, beside: Mapping[str, nn.Module]
    ) -> None:
        seed, self._runtime, self._config = ingredients.seed, ingredients.runtime, config
        self.classes = range(ingredients.teacher.num_classes)
        with seeded(seed, name, "init"):
            generator = build(len(self.classes))
        self._generator = self._runtime.place(generator)
        draws = stream(seed, name, "learning")
        self.learners = [Learner(self._generator, config, [self.classes], [draws], self._runtime, beside.values())]
        self.sampling = [stream(seed, name, "sampling")]

    def sample(self, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) of labels (N,) by a forward pass in eval mode."""
        # by running statistics: batches of one class that are normalised by themselves collapse
        self._generator.eval()
        images = sample_images(self._generator, labels, self._config, self.sampling[0], self._runtime)
        self._generator.train()
        return images

    def state_dict(self) -> dict[str, Any]:
        """Generator, optimiser and both random streams."""
        learner = self.learners[0]
        return {
            "generator": self._generator.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "learning": learner.draws[0].get_state(),
            SAMPLING: self.sampling[0].get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        learner = self.learners[0]
        self._generator.load_state_dict(state["generator"])
        learner.optimizer.load_state_dict(state["optimizer"])
        restore_strides(learner.optimizer)
        learner.draws[0].set_state(state["learning"])
        self.sampling[0].set_state(state[SAMPLING])


def sample_images(
    network: Callable[[Tensor, Tensor], Tensor], labels: Tensor, config: ConditionalConfig, draws: torch.Generator, runtime: Runtime
) -> Tensor:
    """Images (N, C, H, W) of labels (N,) at least one, `config.batch` at a time.

    Args:
        network: one generator in eval mode.
        labels: as that generator counts its classes.
        config: its settings.
        draws: latents come from it.
        runtime: device and precision.
    """
    parts = []
    for part in labels.split(config.batch):
        asked = part.to(runtime.device)
        latent = torch.randn(len(part), config.generator.latent, generator=draws).to(runtime.device)
        with runtime.autocast():
            images = network(latent, asked)
        parts.append(full_precision(images))
    return torch.cat(parts)
