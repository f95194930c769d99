"""LS-GDFD: a label-conditional generator trained before any student exists.

Luo et al., "Large-Scale Generative Data-Free Distillation", arXiv:2012.05578.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from distillery.losses.priors import squared_norm, total_variation_l2
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import build_generator
from distillery.numerics import full_precision
from distillery.optim.restore import restore_strides
from distillery.seeding import seeded, stream
from distillery.synthesis.common import check_labels, draw_labels
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients, Turn
from distillery.synthesis.recorder import TermRecorder, is_diagnosed
from distillery.types import Batch, Classifier


class LSGDFDConfig(MethodConfig):
    """Settings of LS-GDFD with one conditional generator.

    The paper publishes no loss weights, optimiser or schedule: the defaults are ours, measured in `docs/methods/ls_gdfd.md`.

    Attributes:
        generator: the conditional generator's network.
        batch: images a step.
        steps_per_round: generator steps between two checkpoints.
        rate: Adam's rate.
        betas: Adam's momenta.
        label_weight: weight of CE(T(x), y), the first part of inceptionism; 0 with the two below is moment matching alone.
        total_variation_weight: lambda_t, on the sum of L2 norms over the batch.
        l2_weight: lambda_l2, on the mean squared norm of an image.
        moments_weight: lambda_S, on the distance to the teacher's BatchNorm statistics; 0 is inceptionism alone.
        jitter: images are rolled by up to so many pixels before the teacher sees them, one offset a batch.

    Source: arXiv:2012.05578, sections 3.1 and 3.2.
    """

    generator: GeneratorConfig = GeneratorConfig(name="conditional", latent=1024, width=64, condition="one_hot")
    batch: int = Field(default=128, ge=2)
    steps_per_round: int = Field(default=500, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    label_weight: float = Field(default=1.0, ge=0)
    total_variation_weight: float = Field(default=6e-3, ge=0)
    l2_weight: float = Field(default=1.5e-5, ge=0)
    moments_weight: float = Field(default=10.0, ge=0)
    jitter: int = Field(default=0, ge=0)

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


class LSGDFD:
    """One conditional generator, as a `Synthesizer` that never looks at a student.

        L = label * CE(T(x), y) + tv * TV(x) + l2 * ||x||^2 + moments * sum_l r_l,    x = G(z | y)

    It trains in train mode and is sampled in eval mode: a batch of one class in train mode would be normalised by itself.
    """

    def __init__(self, config: LSGDFDConfig, ingredients: Ingredients) -> None:
        self._config = config
        self._teacher = ingredients.teacher
        self._runtime = ingredients.runtime
        with seeded(ingredients.seed, "ls_gdfd", "init"):
            generator = build_generator(config.generator, ingredients.teacher.spec, ingredients.teacher.num_classes)
        self._generator = self._runtime.place(generator.train())
        fused = self._runtime.device.type == "cuda"
        self._optimizer = torch.optim.Adam(self._generator.parameters(), lr=config.rate, betas=config.betas, fused=fused)
        self._matcher = build_matcher("ls_gdfd", config.moments_weight, ingredients)
        self._learning = stream(ingredients.seed, "ls_gdfd", "learning")
        self._sampling = stream(ingredients.seed, "ls_gdfd", "sampling")
        self._diagnose = ingredients.diagnose
        self._rounds = 0

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """`steps_per_round` generator steps. Neither the student nor labels are looked at."""
        config = self._config
        self._rounds += 1
        self._generator.train()
        recorder = TermRecorder(self._diagnose and is_diagnosed(self._rounds))
        for _ in range(config.steps_per_round):
            images, labels = self._generate(config.batch, None, self._learning)
            loss = recorder.add(self._terms(images, labels), images)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return recorder.turn(recorder.mean(), Batch(images.detach(), labels))

    @torch.no_grad()
    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images by one forward pass each, labels drawn uniformly where none are asked for."""
        device = self._runtime.device
        if labels is not None:
            check_labels(labels, n, self._teacher.num_classes)
        else:
            labels = draw_labels(n, self._teacher.num_classes, "uniform", self._sampling)
        if n == 0:
            return Batch(torch.empty(0, *self._teacher.spec.shape, device=device), labels.to(device))
        self._generator.eval()
        parts = [self._generate(len(part), part, self._sampling)[0] for part in labels.split(self._config.batch)]
        self._generator.train()
        return Batch(torch.cat(parts), labels.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Generator with its BatchNorm buffers, optimizer, both random streams and the round count."""
        return {
            "generator": self._generator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "learning": self._learning.get_state(),
            "sampling": self._sampling.get_state(),
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._generator.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        restore_strides(self._optimizer)
        self._learning.set_state(state["learning"])
        self._sampling.set_state(state["sampling"])
        self._rounds = int(state["rounds"])

    def _generate(self, n: int, labels: Tensor | None, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        device = self._runtime.device
        if labels is None:
            labels = draw_labels(n, self._teacher.num_classes, "uniform", draws)
        labels = labels.to(device)
        latent = torch.randn(n, self._config.generator.latent, generator=draws).to(device)
        with self._runtime.autocast():
            images: Tensor = self._generator(latent, labels)
        return full_precision(images), labels

    def _terms(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted terms whose weight is above 0."""
        config = self._config
        view = self._jittered(images)
        with self._runtime.autocast():
            logits, moments = self._matcher.observe(view)
        terms = {}
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), labels)
        if config.total_variation_weight:
            terms["total_variation"] = config.total_variation_weight * total_variation_l2(images)
        if config.l2_weight:
            terms["l2"] = config.l2_weight * squared_norm(images)
        if config.moments_weight:
            terms["moments"] = config.moments_weight * self._matcher.distance(moments)
        return terms

    def _jittered(self, images: Tensor) -> Tensor:
        reach = self._config.jitter
        if reach == 0:
            return images
        down, right = torch.randint(-reach, reach + 1, (2,), generator=self._learning).tolist()
        return torch.roll(images, (down, right), dims=(2, 3))
