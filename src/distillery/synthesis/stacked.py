"""A share of an ensemble: several generators that learn a few at once as one network, each exactly as it would alone.

Whatever is drawn for a generator comes from streams that its index names, Adam looks at each weight by itself, and losses add up over
generators: how many stand in one network, or in one share, changes nothing but the rounding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.models.generators.network import Generator
from distillery.models.generators.stacked import StackedGenerator
from distillery.optim.restore import restore_strides
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.learner import BuildNetwork, Learner, sample_images
from distillery.synthesis.protocol import SAMPLING, Ingredients
from distillery.types import ImageSpec

PIXELS_AT_ONCE = 2**16
"""Pixels of a step's images of the generators that learn as one network on a CPU: measured, see `docs/methods/ls_gdfd.md`. With fewer,
calls take their share of the time; with more, the maps no longer fit into the caches."""


def at_once(batch: int, spec: ImageSpec, generators: int, device: torch.device) -> int:
    """How many generators learn as one network: on a CPU those of `PIXELS_AT_ONCE`, elsewhere all of a share.

    Args:
        batch: images of each.
        spec: shape of an image.
        generators: how many there are.
        device: that they learn on.
    """
    if device.type != "cpu":
        return generators
    return max(min(PIXELS_AT_ONCE // (batch * spec.height * spec.width), generators), 1)


class Stack:
    """The generators of one share.

    Args:
        name: of the method, which names the random streams together with each generator's index.
        config: settings of each.
        ingredients: teacher, runtime, seed, and which share this is.
        build: the network of one generator for a number of classes.

    Raises:
        ConfigError: more generators than classes.
    """

    def __init__(self, name: str, config: ConditionalConfig, ingredients: Ingredients, build: BuildNetwork) -> None:
        seed, self._runtime, self._config, self._share = ingredients.seed, ingredients.runtime, config, ingredients.share
        self._slices = self._share.classes(ingredients.teacher.num_classes)
        self.classes = range(self._slices[0].start, self._slices[-1].stop)
        held = range(self._share.first, self._share.last)
        size = at_once(config.batch, ingredients.teacher.spec, len(held), self._runtime.device)
        self.learners: list[Learner] = []
        self._networks: list[StackedGenerator] = []
        for start in range(0, len(held), size):
            classes = self._slices[start : start + size]
            generators = []
            for index, own in zip(held[start : start + size], classes, strict=True):
                # by index, one after another: what a generator begins with depends on no neighbour and on no share
                with seeded(seed, name, "init", index):
                    generators.append(build(len(own)))
            network = self._runtime.place(StackedGenerator(generators, classes))
            draws = [stream(seed, name, "learning", index) for index in held[start : start + size]]
            self.learners.append(Learner(network, config, classes, draws, self._runtime))
            self._networks.append(network)
        self.sampling = [stream(seed, name, "sampling", index) for index in held]
        self._templates = {len(own): _template(build, len(own), self._runtime) for own in self._slices}

    def sample(self, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) of labels (N,), each of the generator that owns its class, by a forward pass in eval mode.

        Raises:
            ConfigError: classes of other shares.
        """
        labels = labels.cpu()
        first, last = int(labels.min()), int(labels.max())
        if first < self.classes.start or last >= self.classes.stop:
            raise ConfigError(
                f"labels range over {first}..{last}; generators {self._share.first} to {self._share.last - 1} of {self._share.total} make "
                f"classes {self.classes.start}..{self.classes.stop - 1}: ask the shares that hold the others."
            )
        spec = self._templates[len(self._slices[0])].spec
        images = torch.empty(len(labels), *spec.shape, device=self._runtime.device)
        places = zip(self._generators(), self._slices, self.sampling, strict=True)
        for (network, index), own, draws in places:
            mine = ((labels >= own.start) & (labels < own.stop)).nonzero().flatten()
            if len(mine):
                images[mine.to(images.device)] = sample_images(
                    self._alone(network, index, own), labels[mine] - own.start, self._config, draws, self._runtime
                )
        return images

    def state_dict(self) -> dict[str, Any]:
        """Each generator as one alone has it, what the optimiser knows of it, and its random streams; and which share they are."""
        draws = [generator for learner in self.learners for generator in learner.draws]
        return {
            "share": [self._share.first, self._share.last, self._share.total],
            "generators": [network.rows(index, network.state_dict()) for network, index in self._generators()],
            "optimizers": [part for learner in self.learners for part in _optimizer_states(learner)],
            "learning": torch.stack([generator.get_state() for generator in draws]),
            SAMPLING: torch.stack([generator.get_state() for generator in self.sampling]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, whatever number of generators stood in one network there.

        Raises:
            CheckpointMismatchError: of another share.
        """
        ours = [self._share.first, self._share.last, self._share.total]
        if list(state.get("share", [])) != ours:
            raise CheckpointMismatchError(
                f"This state is of the generators {state.get('share', 'of no ensemble')} (first, last, of how many) and these are {ours}: "
                "give each share its own."
            )
        for (network, index), held in zip(self._generators(), state["generators"], strict=True):
            network.load_generator(index, held)
        known = iter(state["optimizers"])
        for learner, network in zip(self.learners, self._networks, strict=True):
            _load_optimizer(learner, network, [next(known) for _ in learner.draws])
        draws = [generator for learner in self.learners for generator in learner.draws]
        for generators, name in ((draws, "learning"), (self.sampling, SAMPLING)):
            for generator, drawn in zip(generators, state[name], strict=True):
                generator.set_state(drawn.clone())  # torch reads where the storage begins, not where a view of it does

    def _alone(self, network: StackedGenerator, index: int, own: range) -> Generator:
        """One generator by itself, in eval mode, until the next one is asked for; its weights are those of the stack and no copies."""
        template = self._templates[len(own)]
        template.load_state_dict(network.rows(index, network.state_dict()), assign=True)
        return template

    def _generators(self) -> Iterator[tuple[StackedGenerator, int]]:
        """Each generator: its network, and its place there."""
        return ((network, index) for network in self._networks for index in range(network.num))


def _template(build: BuildNetwork, num_classes: int, runtime: Runtime) -> Generator:
    """A generator in eval mode whose weights are never used: it computes with those of any generator of that many classes."""
    with seeded(0, "template"):
        return runtime.place(build(num_classes).eval())


def _optimizer_states(learner: Learner) -> list[dict[str, dict[str, Tensor]]]:
    """What Adam knows of each generator: number of steps and both moments, by the name of the weight; empty before the first step."""
    network = learner.network
    assert isinstance(network, StackedGenerator)
    known = {name: learner.optimizer.state[weight] for name, weight in network.named_parameters() if weight in learner.optimizer.state}
    states: list[dict[str, dict[str, Tensor]]] = []
    for index in range(network.num):
        kinds = ("step", "exp_avg", "exp_avg_sq")
        parts = {kind: network.rows(index, {name: values[kind] for name, values in known.items()}) for kind in kinds}
        states.append({name: {kind: parts[kind][name] for kind in kinds} for name in known})
    return states


def _load_optimizer(learner: Learner, network: StackedGenerator, states: list[dict[str, dict[str, Tensor]]]) -> None:
    """Put Adam's knowledge of each generator side by side again."""
    stacked: dict[int, dict[str, Tensor]] = {}
    for number, (name, weight) in enumerate(network.named_parameters()):
        if name not in states[0]:
            continue
        whole = {kind: torch.zeros_like(weight) for kind in ("exp_avg", "exp_avg_sq")}
        for kind, values in whole.items():
            for index, state in enumerate(states):
                network.rows(index, {name: values})[name].copy_(state[name][kind])
        # one count for all: generators of a stack step together
        stacked[number] = {"step": states[0][name]["step"].clone(), **whole}
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": stacked})
    restore_strides(learner.optimizer)
