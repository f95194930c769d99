"""FastDFKD: a meta-generator that reaches new images in k steps.

Fang et al., "Up to 100x Faster Data-free Knowledge Distillation", arXiv:2112.07327, AAAI 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from distillery.data.augment import AugmentConfig, augment
from distillery.errors import ConfigError
from distillery.losses.adversarial import decision_adversarial
from distillery.losses.moments import LayerMoments
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import build_generator
from distillery.numerics import full_precision
from distillery.optim.meta import add_gradients, reptile_gradient
from distillery.optim.restore import restore_strides
from distillery.seeding import seeded, stream
from distillery.synthesis.common import check_labels, draw_labels, in_full_batches, only_looked_at
from distillery.synthesis.config import MethodConfig
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import SAMPLING, Ingredients, Turn
from distillery.synthesis.recorder import TermRecorder, is_diagnosed
from distillery.types import Batch, Classifier

BETAS = (0.5, 0.999)


class FastDFKDConfig(MethodConfig):
    """Settings of FastDFKD; the defaults are the published CIFAR schedule with k = 5.

    Attributes:
        generator: the meta-generator's network.
        batch: images a round.
        steps: k, adaptation steps that lead from the meta-generator to a batch.
        reuse: what the next round starts from. fomaml_sum: gradients of all k steps summed, as the reference code does;
            fomaml_last: the last step's alone, as the paper writes; reptile; sequential: the adapted generator itself;
            none: a freshly initialised one.
        latent_rate: Adam's rate on z.
        generator_rate: Adam's rate on the adapted generator.
        meta_rate: Adam's rate on the meta-generator; 0 means generator_rate * steps, as the reference code does.
        reptile_scale: factor on Reptile's pseudo-gradient; 67 in the reference code, without a reason given.
        moments_weight: weight of the distance to the teacher's BatchNorm statistics.
        label_weight: weight of the cross-entropy to the asked label.
        adversarial_weight: weight of the masked adversarial term, once warm-up is over.
        moments_momentum: m of the running average of batch statistics; 0 is off.
        reset: whether the generator's first layer is re-initialised once; first_layer_and_norm does it to the following
            BatchNorm's scale as well, a quirk of the reference code.
        reset_after: rounds after warm-up at which that happens.
        warmup: rounds before the student trains; the adversarial term starts with the last of them.
        labels: uniform draws labels independently, as published; balanced gives each class its share.
        augment: what the teacher and the student see of an image while it is made.

    Source: arXiv:2112.07327, section 4.1, and its reference code's settings for CIFAR.
    """

    generator: GeneratorConfig = GeneratorConfig(name="generator", latent=256, width=64, initialisation="torch")
    batch: int = Field(default=256, ge=2)
    steps: int = Field(default=5, ge=1)
    reuse: Literal["fomaml_sum", "fomaml_last", "reptile", "sequential", "none"] = "fomaml_sum"
    latent_rate: float = Field(default=0.01, gt=0)
    generator_rate: float = Field(default=3e-3, gt=0)
    meta_rate: float = Field(default=0.0, ge=0)
    reptile_scale: float = Field(default=67.0, gt=0)
    moments_weight: float = Field(default=10.0, ge=0)
    label_weight: float = Field(default=0.4, ge=0)
    adversarial_weight: float = Field(default=1.1, ge=0)
    moments_momentum: float = Field(default=0.9, ge=0, lt=1)
    reset: Literal["off", "first_layer", "first_layer_and_norm"] = "first_layer_and_norm"
    reset_after: int = Field(default=120, ge=1)
    warmup: int = Field(default=20, ge=0)
    labels: Literal["uniform", "balanced"] = "uniform"
    augment: AugmentConfig = AugmentConfig(crop_padding=4, flip=True)

    @property
    def images_per_turn(self) -> int:
        """The batch that the k steps lead to."""
        return self.batch

    @property
    def steps_per_turn(self) -> int:
        """K."""
        return self.steps

    @property
    def warmup_turns(self) -> int:
        """`warmup`, under the name that every method answers to."""
        return self.warmup

    def cut(self, images: int, steps: int) -> Self:
        """A smaller batch in fewer steps, the adversarial term included."""
        return self.model_copy(update={"batch": images, "steps": steps, "warmup": 0})

    @model_validator(mode="after")
    def _some_early_term(self) -> Self:
        if not (self.moments_weight or self.label_weight) and self.warmup > 1:
            raise ValueError(
                f"adversarial_weight alone is above 0, and that term begins with round {self.warmup} (warmup), so the rounds before have "
                "nothing to minimise: give moments_weight or label_weight a weight above 0, or lower warmup to 1"
            )
        return self


_LONELY = (
    "Of FastDFKD's weights adversarial_weight alone is above 0, and that term needs a student to play against: give moments_weight or "
    "label_weight a weight above 0, or a student."
)


@dataclass(frozen=True)
class _Adaptation:
    """What k steps from one starting point produced."""

    images: Tensor
    labels: Tensor
    meta_gradient: list[Tensor]
    moments: list[LayerMoments]


class FastDFKD:
    """The meta-generator and its k-step adaptations, as a `Synthesizer`.

    One round draws z and labels, copies the meta-generator, and takes k Adam steps on copy and z together:

        L = moments * sum_l r_l + label * CE(T(a(x)), y) + adversarial * L_adv,    x = G'(z), a(x) an augmented view

    The images of the step with the lowest L are the round's batch; what was learned returns to the meta-generator by `reuse`.
    The generator runs in train mode throughout, as published: its BatchNorm never uses running statistics.
    """

    def __init__(self, config: FastDFKDConfig, ingredients: Ingredients) -> None:
        self._config = config
        self._teacher = ingredients.teacher
        self._runtime = ingredients.runtime
        self._seed = ingredients.seed
        self._meta = self._new_generator("init")
        # memory for the copies: every adaptation writes the meta-generator's parameters over it
        self._adapted = self._new_generator("init")
        rate = config.meta_rate or config.generator_rate * config.steps
        self._meta_optimizer = torch.optim.Adam(self._meta.parameters(), lr=rate, betas=BETAS, fused=self._fused)
        self._matcher = build_matcher("fast_dfkd", config.moments_weight, ingredients, config.moments_momentum)
        self._learning = stream(ingredients.seed, "fast_dfkd", "learning")
        self._sampling = stream(ingredients.seed, "fast_dfkd", "sampling")
        self._diagnose = ingredients.diagnose
        self._rounds = 0

    @property
    def _fused(self) -> bool:
        return self._runtime.device.type == "cuda"

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """Make one batch in k steps and let the meta-generator learn from it.

        Args:
            student: the opponent of the adversarial term; None leaves the term out.
            labels: (batch,) int64 classes to make instead of drawn ones.

        Returns:
            The terms of the last step and the images (batch, C, H, W) of the best one; not ready before warm-up is over.

        Raises:
            ConfigError: without a student, or before the last round of warm-up, nothing is left to minimise.
        """
        config = self._config
        self._rounds += 1
        if config.reset != "off" and self._rounds == config.warmup + config.reset_after:
            self._meta.reset_first_layers(config.reset, self._learning)
        if config.reuse == "none":
            # named by the round, so that a resumed run draws the same
            self._meta.load_state_dict(self._new_generator("init", self._rounds).state_dict())
        if labels is None:
            labels = draw_labels(config.batch, self._teacher.num_classes, config.labels, self._learning)
        recorder = TermRecorder(self._diagnose and is_diagnosed(self._rounds))
        with only_looked_at(student):
            result = self._adapt(labels, student, self._learning, recorder)
        # once a round and with the last step's statistics, as the reference code does: k steps of one batch count as one look
        self._matcher.remember(result.moments)
        self._learn(result.meta_gradient)
        return recorder.turn(recorder.last(), Batch(result.images, result.labels), ready=self._rounds > config.warmup)

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images, k adaptation steps from the present meta-generator for each full batch; the surplus is dropped.

        Args:
            n: how many images.
            labels: (n,) int64 classes to ask for; shuffled over the batches, since batch statistics must not see one class alone.
            student: takes part through the adversarial term once warm-up is over.

        Raises:
            ConfigError: labels that do not fit, or nothing is left to minimise without a student.
        """
        num_classes = self._teacher.num_classes
        if labels is None:
            labels = draw_labels(n, num_classes, self._config.labels, self._sampling)
        check_labels(labels, n, num_classes)
        device = self._runtime.device
        if n == 0:
            return Batch(torch.empty(0, *self._teacher.spec.shape, device=device), labels.to(device))

        def make(part: Tensor) -> Tensor:
            return self._adapt(part, student, self._sampling, TermRecorder()).images

        surplus = draw_labels(-n % self._config.batch, num_classes, self._config.labels, self._sampling)
        with only_looked_at(student):
            images = in_full_batches(labels, surplus, self._config.batch, self._sampling, make)
        return Batch(images, labels.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Meta-generator, its optimizer, running moments, both random streams and the round count."""
        return {
            "meta": self._meta.state_dict(),
            "meta_optimizer": self._meta_optimizer.state_dict(),
            "moments": self._matcher.state_dict(),
            "learning": self._learning.get_state(),
            SAMPLING: self._sampling.get_state(),
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._meta.load_state_dict(state["meta"])
        self._meta_optimizer.load_state_dict(state["meta_optimizer"])
        restore_strides(self._meta_optimizer)
        self._matcher.load_state_dict(state["moments"])
        self._learning.set_state(state["learning"])
        self._sampling.set_state(state[SAMPLING])
        self._rounds = int(state["rounds"])

    def _new_generator(self, *names: str | int) -> Any:
        with seeded(self._seed, "fast_dfkd", *names):
            generator = build_generator(self._config.generator, self._teacher.spec, self._teacher.num_classes)
        return self._runtime.place(generator.train())

    def _adapt(self, labels: Tensor, student: Classifier | None, draws: torch.Generator, recorder: TermRecorder) -> _Adaptation:
        """K steps of a copy of the meta-generator and of z together, keeping the images of the best step."""
        config, device = self._config, self._runtime.device
        labels = labels.to(device)
        copy_parameters(self._meta, self._adapted)
        parameters = list(self._adapted.parameters())
        latent = torch.randn(len(labels), config.generator.latent, generator=draws).to(device).requires_grad_()
        # new for each batch: one task knows nothing of the momenta of another
        optimizer = torch.optim.Adam(
            [{"params": parameters, "lr": config.generator_rate}, {"params": [latent], "lr": config.latent_rate}],
            betas=BETAS,
            fused=self._fused,
        )
        meta_gradient = [torch.zeros_like(parameter) for parameter in parameters]
        best_images, best_loss = torch.empty(0), torch.full((), torch.inf, device=device)
        for step in range(config.steps):
            images = self._adapted(latent, labels)
            terms, moments = self._terms(augment(images, config.augment, draws), labels, student)
            if not terms:
                raise ConfigError(_LONELY)
            loss = recorder.add(terms, images)
            # before the update that this loss leads to; where the first loss is NaN, which is below nothing, its images stay and the
            # recorder tells
            better = loss.detach() < best_loss
            best_images = torch.where(better, images.detach(), best_images) if step else images.detach()
            best_loss = torch.where(better, loss.detach(), best_loss)
            # grad and not backward: the meta-gradient sums these very tensors, and nothing is added to what stands in a .grad
            gradients = torch.autograd.grad(loss, [*parameters, latent])
            self._collect(meta_gradient, gradients[:-1], last=step == config.steps - 1)
            for parameter, gradient in zip([*parameters, latent], gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        return _Adaptation(best_images, labels, meta_gradient, moments)

    def _terms(self, view: Tensor, labels: Tensor, student: Classifier | None) -> tuple[dict[str, Tensor], list[LayerMoments]]:
        """The weighted terms of one step, and the batch statistics they saw."""
        config = self._config
        with self._runtime.autocast():
            logits, moments = self._matcher.observe(view)
            terms = {}
            if config.moments_weight:
                terms["moments"] = config.moments_weight * self._matcher.distance(moments)
            if config.label_weight:
                terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), labels)
            # with the last round of warm-up, one before the student's first step: the reference code counts
            # calls from 1 and epochs from 0
            if student is not None and config.adversarial_weight and self._rounds >= config.warmup:
                terms["adversarial"] = config.adversarial_weight * decision_adversarial(student(view), logits)
        return terms, moments

    def _collect(self, total: list[Tensor], gradients: tuple[Tensor, ...], last: bool) -> None:
        if self._config.reuse == "fomaml_sum" or (self._config.reuse == "fomaml_last" and last):
            add_gradients(total, gradients)

    def _learn(self, meta_gradient: list[Tensor]) -> None:
        """Bring what one adaptation learned back to the meta-generator."""
        reuse = self._config.reuse
        if reuse == "none":
            return
        if reuse == "sequential":
            copy_parameters(self._adapted, self._meta)
            return
        if reuse == "reptile":
            meta_gradient = reptile_gradient(list(self._meta.parameters()), list(self._adapted.parameters()), self._config.reptile_scale)
        for parameter, gradient in zip(self._meta.parameters(), meta_gradient, strict=True):
            parameter.grad = gradient
        self._meta_optimizer.step()
        self._meta_optimizer.zero_grad()


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters, not buffers: in train mode BatchNorm never reads its running statistics.

    Args:
        source: that they are read from.
        target: of the same architecture, written in place.
    """
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        ours.copy_(theirs)
