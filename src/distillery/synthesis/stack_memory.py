"""What a share of an ensemble takes of memory, known before it is built."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from distillery.models.generators.network import build_generator
from distillery.seeding import seeded
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.stacked import at_once
from distillery.types import Classifier

_IMAGES = 2  # of one, BatchNorm in train mode refuses maps of one value a channel


@dataclass(frozen=True)
class StackMemory:
    """Bytes of one generator of an ensemble.

    Attributes:
        weights: its parameters and buffers.
        optimizer: Adam's two moments of each parameter.
        gradients: of its parameters while it learns, and twice as much for what Adam computes of them on the way.
        activations: what a step keeps for its way back, of the generator and of the teacher, for the generator's batch, and as much for
            the gradients on that way.
        learning: how many learn at the same time where there are many.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    learning: int

    @property
    def resident(self) -> int:
        """Of every generator of a share, at any time."""
        return self.weights + self.optimizer

    def of(self, generators: int) -> int:
        """Bytes of a share of so many generators at its peak, the teacher's weights not among them."""
        return generators * self.resident + min(generators, self.learning) * (self.gradients + self.activations)

    def most(self, budget: int) -> int:
        """The most generators of one share that stay within a budget of bytes; 0 where not even one does."""
        if self.of(1) > budget:
            return 0
        few = max(count for count in range(1, self.learning + 1) if self.of(count) <= budget)
        if few < self.learning:
            return few
        return few + (budget - self.of(few)) // self.resident


def stack_memory(config: ConditionalConfig, teacher: Classifier, total: int, device: torch.device) -> StackMemory:
    """What one generator of an ensemble takes.

    Weights are counted; activations are those of two images, passed through a fresh generator and the teacher, times half the batch. What
    kernels take for themselves is not counted: three shares on a CPU took 0.90 to 1.12 times as much (`docs/methods/ls_gdfd.md`).

    Args:
        config: the method's settings.
        teacher: frozen, on any device; on the meta device nothing is computed.
        total: generators of the ensemble, at most as many as classes.
        device: that the generators will learn on.
    """
    most = -(-teacher.num_classes // total)
    settings = config.generator if most > 1 else config.generator.model_copy(update={"condition": "none"})
    place = teacher.mean.device
    with seeded(0, "stack_memory"), torch.device(place):
        generator = build_generator(settings, teacher.spec, most).to(place)
    kept: dict[int, Tensor] = {}  # a tensor a piece of memory: several may be views of one

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        latent = torch.randn(_IMAGES, settings.latent, device=place)
        images = generator(latent, torch.zeros(_IMAGES, dtype=torch.int64, device=place))
        _answers = teacher(images)  # held until what it keeps is counted
    weights = {parameter.untyped_storage()._cdata for module in (generator, teacher) for parameter in module.parameters()}
    saved = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
    learned = sum(parameter.numel() * parameter.element_size() for parameter in generator.parameters())
    state = sum(value.numel() * value.element_size() for value in generator.state_dict().values())
    return StackMemory(
        state, 2 * learned, 3 * learned, 2 * saved * config.batch // _IMAGES, at_once(config.batch, teacher.spec, total, device)
    )
