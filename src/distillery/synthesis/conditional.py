"""What methods with one conditional generator share: the loop, sampling and state; such a method's file holds its settings and its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import build_generator
from distillery.numerics import full_precision
from distillery.optim.restore import restore_strides
from distillery.seeding import seeded, stream
from distillery.synthesis.common import check_labels, draw_labels, only_looked_at
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.protocol import SAMPLING, Ingredients, Turn
from distillery.synthesis.recorder import TermRecorder, is_diagnosed
from distillery.types import Batch, Classifier


class ConditionalConfig(MethodConfig):
    """Settings of a conditional generator's training; a method adds the weights of its terms.

    Attributes:
        generator: its network.
        batch: images a step.
        steps_per_round: generator steps of one turn.
        rate: Adam's rate.
        betas: Adam's momenta.
    """

    generator: GeneratorConfig = GeneratorConfig(name="conditional", latent=1024, width=64, condition="one_hot")
    batch: int = Field(default=128, ge=2)
    steps_per_round: int = Field(default=500, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)

    @property
    def images_per_turn(self) -> int:
        """The last step's images."""
        return self.batch

    @property
    def steps_per_turn(self) -> int:
        """Generator steps."""
        return self.steps_per_round

    def cut(self, images: int, steps: int) -> Self:
        """Fewer generator steps on a smaller batch."""
        return self.model_copy(update={"batch": images, "steps_per_round": steps})


Settings = TypeVar("Settings", bound=ConditionalConfig)


@dataclass(frozen=True)
class Generated:
    """One step's images and what they were made from.

    Attributes:
        images: (N, C, H, W), float32 in [0, 1], with the generator's graph.
        labels: (N,) int64, the classes asked for.
        latent: (N, generator.latent), standard normal.
    """

    images: Tensor
    labels: Tensor
    latent: Tensor


class ConditionalSynthesizer(ABC, Generic[Settings]):
    """One conditional generator, as a `Synthesizer`; a method derives from it and says in `terms` what is minimised.

        L(theta) = sum of the terms of x = G(z | y),    z ~ N(0, 1), y uniform

    It trains in train mode and is sampled in eval mode: a batch of one class in train mode would be normalised by itself.

    Args:
        name: of the method's catalog row; its random streams are named by it.
        config: its settings.
        ingredients: what it is built from.
        beside: networks that learn with the generator by the same loss and optimiser, such as a decoder; they take no part in `synthesize`.

    Attributes:
        config: its settings.
        teacher: frozen.
        runtime: device and precision; a pass of the teacher belongs under `runtime.autocast()`.
        learning: the random stream of whatever `terms` draws.
        beside: those networks, on the device.
    """

    def __init__(
        self, name: str, config: Settings, ingredients: Ingredients, beside: Mapping[str, nn.Module] = MappingProxyType({})
    ) -> None:
        self.config = config
        self.teacher = ingredients.teacher
        self.runtime = ingredients.runtime
        self.learning = stream(ingredients.seed, name, "learning")
        self.beside = {key: self.runtime.place(module.train()) for key, module in beside.items()}
        with seeded(ingredients.seed, name, "init"):
            generator = build_generator(config.generator, self.teacher.spec, self.teacher.num_classes)
        self._generator = self.runtime.place(generator.train())
        learners = [parameter for module in (self._generator, *self.beside.values()) for parameter in module.parameters()]
        self._optimizer = torch.optim.Adam(learners, lr=config.rate, betas=config.betas, fused=self.runtime.device.type == "cuda")
        self._sampling = stream(ingredients.seed, name, "sampling")
        self._diagnose = ingredients.diagnose
        self._rounds = 0

    @abstractmethod
    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms of one step whose weight is above 0, 0-d with their graph.

        Args:
            made: this step's images.
            student: the opponent in eval mode without gradients to its weights; None where there is none.

        Raises:
            ConfigError: without a student there is nothing to minimise.
        """

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """`steps_per_round` generator steps; labels are drawn, whatever is asked for."""
        self._rounds += 1
        self._generator.train()
        recorder = TermRecorder(self._diagnose and is_diagnosed(self._rounds))
        with only_looked_at(student):
            for _ in range(self.config.steps_per_round):
                made = self._generate(self._draw_labels(self.config.batch, self.learning), self.learning)
                loss = recorder.add(self.terms(made, student), made.images)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        return recorder.turn(recorder.mean(), Batch(made.images.detach(), made.labels))

    @torch.no_grad()
    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images by one forward pass each, labels drawn uniformly where none are asked for."""
        device = self.runtime.device
        if labels is not None:
            check_labels(labels, n, self.teacher.num_classes)
        else:
            labels = self._draw_labels(n, self._sampling)
        if n == 0:
            return Batch(torch.empty(0, *self.teacher.spec.shape, device=device), labels.to(device))
        self._generator.eval()
        parts = [self._generate(part, self._sampling).images for part in labels.split(self.config.batch)]
        self._generator.train()
        return Batch(torch.cat(parts), labels.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Generator with its BatchNorm buffers, networks beside it, optimizer, both random streams and the count of turns."""
        return {
            "generator": self._generator.state_dict(),
            **{name: module.state_dict() for name, module in self.beside.items()},
            "optimizer": self._optimizer.state_dict(),
            "learning": self.learning.get_state(),
            SAMPLING: self._sampling.get_state(),
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._generator.load_state_dict(state["generator"])
        for name, module in self.beside.items():
            module.load_state_dict(state[name])
        self._optimizer.load_state_dict(state["optimizer"])
        restore_strides(self._optimizer)
        self.learning.set_state(state["learning"])
        self._sampling.set_state(state[SAMPLING])
        self._rounds = int(state["rounds"])

    def _draw_labels(self, n: int, draws: torch.Generator) -> Tensor:
        return draw_labels(n, self.teacher.num_classes, "uniform", draws)

    def _generate(self, labels: Tensor, draws: torch.Generator) -> Generated:
        device = self.runtime.device
        labels = labels.to(device)
        latent = torch.randn(len(labels), self.config.generator.latent, generator=draws).to(device)
        with self.runtime.autocast():
            images: Tensor = self._generator(latent, labels)
        return Generated(full_precision(images), labels, latent)
