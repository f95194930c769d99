"""What methods of conditional generators share: the loop, sampling and state; such a method's file holds its settings and its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from distillery.models.generators.network import Generator, build_generator
from distillery.synthesis.common import check_labels, draw_labels, only_looked_at
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.learner import Generated, Held, Lone
from distillery.synthesis.protocol import Ingredients, Turn
from distillery.synthesis.recorder import TermRecorder, is_diagnosed
from distillery.synthesis.stacked import Stack
from distillery.types import Batch, Classifier

Settings = TypeVar("Settings", bound=ConditionalConfig)


class ConditionalSynthesizer(ABC, Generic[Settings]):
    """One conditional generator, or a share of an ensemble, as a `Synthesizer`; a method says in `terms` what is minimised.

        L(theta) = sum of the terms of x = G(z | y),    z ~ N(0, 1), y uniform over the generator's classes

    It trains in train mode and is sampled in eval mode: a batch of one class in train mode would be normalised by itself. The generators
    of an ensemble learn a few at once as one network (`synthesis/stacked.py`), each as it would alone: its loss is its own, and it draws
    from streams that its index names.

    Args:
        name: of the method's catalog row; its random streams are named by it.
        config: its settings.
        ingredients: what it is built from.
        beside: networks that learn with the generator by the same loss and optimiser, such as a decoder; they take no part in
            `synthesize`, and an ensemble has none.

    Attributes:
        config: its settings.
        teacher: frozen.
        runtime: device and precision; a pass of the teacher belongs under `runtime.autocast()`.
        beside: those networks, on the device.

    Raises:
        ConfigError: more generators than classes.
    """

    def __init__(
        self, name: str, config: Settings, ingredients: Ingredients, beside: Mapping[str, nn.Module] = MappingProxyType({})
    ) -> None:
        self.config = config
        self.teacher = ingredients.teacher
        self.runtime = ingredients.runtime
        self.beside = {key: self.runtime.place(module.train()) for key, module in beside.items()}
        self._diagnose = ingredients.diagnose
        self._rounds = 0
        share = ingredients.share
        assert share.total == 1 or not beside, "the generators of an ensemble have no network beside them"
        self._held: Held = (
            Stack(name, config, ingredients, self.build_network)
            if share.total > 1
            else Lone(name, config, ingredients, self.build_network, self.beside)
        )

    @abstractmethod
    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms of one step whose weight is above 0, 0-d with their graph; of several generators, summed over them.

        Args:
            made: this step's images.
            student: the opponent in eval mode without gradients to its weights; None where there is none.

        Raises:
            ConfigError: without a student there is nothing to minimise.
        """

    def build_network(self, num_classes: int) -> Generator:
        """A generator with fresh weights, drawn from torch's global stream; one of a single class has no one-hot part.

        Args:
            num_classes: how many classes it can be asked for.
        """
        config = self.config.generator
        if num_classes == 1:
            config = config.model_copy(update={"condition": "none"})
        return build_generator(config, self.teacher.spec, num_classes)

    def draw_labels(self, classes: range, draws: torch.Generator) -> Tensor:
        """The labels (batch,) int64 of one generator's step, on the CPU.

        Args:
            classes: its own.
            draws: its stream.
        """
        return draw_labels(self.config.batch, len(classes), "uniform", draws) + classes.start

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """`steps_per_round` generator steps; labels are drawn, whatever is asked for."""
        self._rounds += 1
        recorder = TermRecorder(self._diagnose and is_diagnosed(self._rounds))
        last = []
        with only_looked_at(student):
            for learner in self._held.learners:
                recorder.begin()
                for _ in range(self.config.steps_per_round):
                    made = learner.generate(self.config.batch, self.draw_labels)
                    learner.learn(recorder.add(self.terms(made, student), made.images, made.groups))
                last.append(Batch(made.images.detach(), made.labels))
        return recorder.turn(recorder.mean(), last[0] if len(last) == 1 else _joined(last))

    @torch.no_grad()
    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images by one forward pass each, labels drawn uniformly of all classes held here where none are asked for.

        Raises:
            ConfigError: labels of classes that other shares of the ensemble hold.
        """
        device, classes = self.runtime.device, self._held.classes
        if labels is not None:
            check_labels(labels, n, self.teacher.num_classes)
        else:
            labels = draw_labels(n, len(classes), "uniform", self._held.sampling[0]) + classes.start
        if n == 0:
            return Batch(torch.empty(0, *self.teacher.spec.shape, device=device), labels.to(device))
        return Batch(self._held.sample(labels), labels.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Generators with their BatchNorm buffers, networks beside, optimiser, all random streams and the count of turns."""
        return {**self._held.state_dict(), **{name: module.state_dict() for name, module in self.beside.items()}, "rounds": self._rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            CheckpointMismatchError: of another share of an ensemble.
        """
        self._held.load_state_dict(state)
        for name, module in self.beside.items():
            module.load_state_dict(state[name])
        self._rounds = int(state["rounds"])


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches if batch.labels is not None]))
