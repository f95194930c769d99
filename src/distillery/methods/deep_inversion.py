"""DeepInversion: images made from noise by gradients on their pixels, alone or against the present student.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv:1912.08795, CVPR 2020.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from distillery.config import refuse_idle
from distillery.errors import ConfigError
from distillery.losses.adversarial import clamped_divergence, jensen_shannon
from distillery.losses.priors import mean_norm, total_variation_l1, total_variation_l2
from distillery.numerics import full_precision
from distillery.optim.schedules import ScheduleConfig, ScheduleProgress, rate_at
from distillery.synthesis.inversion import InversionConfig, InversionSynthesizer, Pass, View, check_pooled
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier

_COARSE = 2
_LONELY = (
    "Of Adaptive DeepInversion's weights competition_weight alone is above 0, and that term needs a student to play against: give another "
    "weight above 0, or a student."
)
_DIVERGENCES = {"jensen_shannon": jensen_shannon, "clamped": clamped_divergence}


class DeepInversionConfig(InversionConfig):
    """Settings of DeepInversion; the defaults are the published ones for CIFAR-10.

    Attributes:
        coarse_steps: of Adam before the others, on views of half the height and width; ImageNet's setting 0 has them.
        warmup_steps: over which the rate of each part rises from nearly 0 in a straight line; no part may be shorter.
        schedule: constant, or a cosine down to 0 after the warm-up; of each part by itself.
        label_weight: weight of CE(T(x), y).
        total_variation_weight: of the sum of L2 norms of neighbours' differences over the batch.
        total_variation_l1_weight: of the mean absolute difference of neighbours, its other form.
        norm_weight: of the mean norm of an image, in the teacher's normalised space.
        moments_weight: of the distance to the teacher's BatchNorm statistics.
        first_layer_factor: on the share of the first BatchNorm in it; 10 for ImageNet.

    Source: arXiv:1912.08795, section 4.1, and its code's settings for CIFAR-10.
    """

    coarse_steps: int = Field(default=0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    label_weight: float = Field(default=1.0, ge=0)
    total_variation_weight: float = Field(default=1e-3, ge=0)
    total_variation_l1_weight: float = Field(default=0.0, ge=0)
    norm_weight: float = Field(default=0.0, ge=0)
    moments_weight: float = Field(default=10.0, ge=0)
    first_layer_factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _warms_up(self) -> Self:
        for name in ("steps", "coarse_steps"):
            if 0 < (steps := getattr(self, name)) < self.warmup_steps:
                raise ValueError(
                    f"warmup_steps = {self.warmup_steps} is more than {name} = {steps}, so the rate would never be reached: lower it, or "
                    f"give more {name}"
                )
        return self

    def check_networks(self, teacher: Classifier, student: Classifier) -> None:
        """Refuse a teacher that takes images of its own size alone, where it is shown smaller ones."""
        if self.coarse_steps:
            check_pooled(teacher, "teacher", _COARSE, "coarse_steps")

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Half the resolution first, where it is asked for."""
        return (*((Pass(self.coarse_steps, _COARSE),) if self.coarse_steps else ()), Pass(self.steps))

    @property
    def steps_per_turn(self) -> int:
        """As many steps of full resolution as take the time of all."""
        return self.steps + -(-self.coarse_steps // _COARSE**2)

    def cut(self, images: int, steps: int) -> Self:
        """Fewer steps on fewer images, at full resolution and without warm-up."""
        return super().cut(images, steps).model_copy(update={"coarse_steps": 0, "warmup_steps": 0})

    def rate_at(self, step: int, steps: int) -> float:
        """Adam's rate: up in a straight line, then as the schedule says."""
        if step < self.warmup_steps:
            # from step + 1: at a rate of 0 the first step would move Adam's moments and nothing else
            return self.rate * (step + 1) / self.warmup_steps
        progress = ScheduleProgress(step - self.warmup_steps, steps - self.warmup_steps)
        return rate_at(ScheduleConfig(name=self.schedule), self.rate, progress)


class AdaptiveDeepInversionConfig(DeepInversionConfig):
    """Settings of Adaptive DeepInversion, beside those of DeepInversion.

    Attributes:
        competition_weight: of 1 - clamp(D(T(x), S(x)), 0, 1), which falls as student and teacher part.
        competition: D. jensen_shannon as the paper writes it; clamped as its code computes it.
        temperature: of both answers in D.

    Source: arXiv:1912.08795, section 3.3.
    """

    competition_weight: float = Field(default=1.0, ge=0)
    competition: Literal["jensen_shannon", "clamped"] = "jensen_shannon"
    temperature: float = Field(default=3.0, gt=0)

    def check_networks(self, teacher: Classifier, student: Classifier) -> None:
        """Refuse either network, where it is shown such images."""
        super().check_networks(teacher, student)
        if self.coarse_steps and self.competition_weight:
            check_pooled(student, "student", _COARSE, "coarse_steps")

    @model_validator(mode="after")
    def _competes(self) -> Self:
        if not self.competition_weight:
            refuse_idle(self, ["competition", "temperature"], "where competition_weight is 0")
        return self


class DeepInversion(InversionSynthesizer[DeepInversionConfig]):
    """Images of the classes that are asked for, with the statistics that the teacher saw in training.

    L = label * CE(T(x), y) + tv * TV(x) + norm * ||x|| + moments * sum_l w_l r_l,    w_1 = first_layer_factor, the other w_l = 1

    Priors are of the pixels in the teacher's normalised space; the networks see them clamped to what images can be.

    Source: arXiv:1912.08795, equations 2 to 4.
    """

    def __init__(self, config: DeepInversionConfig, ingredients: Ingredients, name: str = "deep_inversion") -> None:
        super().__init__(name, config, ingredients)
        if config.coarse_steps:
            check_pooled(self.teacher, "teacher", _COARSE, "coarse_steps")
        self._matcher = build_matcher(name, config.moments_weight, ingredients)

    def terms(self, view: View, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms whose weight is above 0, of one pass of each network."""
        config, pixels = self.config, view.pixels
        # the pass alone: losses and priors are differences of like numbers, which bfloat16 would round away
        with self.runtime.autocast():
            logits, moments = self._matcher.observe(view.images)
        terms = {}
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), view.labels)
        # priors are of the view, as published: what a roll brings together at the seam is smoothed for this one step
        if config.total_variation_weight:
            terms["total_variation"] = config.total_variation_weight * total_variation_l2(pixels)
        if config.total_variation_l1_weight:
            terms["total_variation_l1"] = config.total_variation_l1_weight * total_variation_l1(pixels)
        if config.norm_weight:
            terms["norm"] = config.norm_weight * mean_norm(pixels)
        if config.moments_weight:
            terms["moments"] = config.moments_weight * self._matcher.distance(moments, first=config.first_layer_factor)
        return terms | self._against(student, view, logits)

    def _against(self, student: Classifier | None, view: View, logits: Tensor) -> dict[str, Tensor]:
        """The terms that depend on the student: none."""
        return {}


class AdaptiveDeepInversion(DeepInversion):
    """Images on which student and teacher part, beside all that DeepInversion asks of them: run online, a batch a turn.

    L = L_DeepInversion + competition * (1 - clamp(D(T(x), S(x)), 0, 1)),    S as it is in this turn

    Source: arXiv:1912.08795, equations 6 and 7; its code computes D in the other direction, see `losses.adversarial`.
    """

    config: AdaptiveDeepInversionConfig

    def __init__(self, config: AdaptiveDeepInversionConfig, ingredients: Ingredients) -> None:
        super().__init__(config, ingredients, "adaptive_deep_inversion")
        self._checked = not config.coarse_steps

    def _against(self, student: Classifier | None, view: View, logits: Tensor) -> dict[str, Tensor]:
        config = self.config
        if student is None and set(name for name, weight in config.weights.items() if weight) == {"competition_weight"}:
            raise ConfigError(_LONELY)
        if student is None or not config.competition_weight:
            return {}
        if not self._checked:
            check_pooled(student, "student", _COARSE, "coarse_steps")
            self._checked = True
        with self.runtime.autocast():
            answers = student(view.images)
        # outside of the clamp there is no gradient: answers far enough apart are let be. The Jensen-Shannon divergence, at most ln 2,
        # never gets there; the clamped form may
        divergence = _DIVERGENCES[config.competition](answers, logits, config.temperature)
        return {"competition": config.competition_weight * (1 - divergence.clamp(0, 1))}
