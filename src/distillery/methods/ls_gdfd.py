"""LS-GDFD: label-conditional generators trained before any student exists.

Luo et al., "Large-Scale Generative Data-Free Distillation", arXiv:2012.05578.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from distillery.config import refuse_idle
from distillery.losses.priors import squared_norm, total_variation_l2
from distillery.numerics import full_precision
from distillery.synthesis.conditional import ConditionalSynthesizer
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.learner import Generated
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier


class LSGDFDConfig(ConditionalConfig):
    """Settings of LS-GDFD, beside those of its generators' training.

    The paper publishes no loss weights, optimiser or schedule: the defaults are ours, measured in `docs/methods/ls_gdfd.md`.

    Attributes:
        label_weight: weight of CE(T(x), y), the first part of inceptionism; 0 with the two below is moment matching alone.
        total_variation_weight: lambda_t, on the sum of L2 norms over the batch.
        l2_weight: lambda_l2, on the mean squared norm of an image.
        moments_weight: lambda_S, on the distance to the teacher's BatchNorm statistics; 0 is inceptionism alone.
        targets: which statistics a batch is held against: those of all classes together (global), or those of each class by itself
            (class), which labelled or inverted images of each class were measured for.
        images_per_class: under `targets: class`, a batch holds about so many images of each class in it, drawn without replacement of
            the generator's classes; the moments of fewer say little. A generator of one class makes whole batches of it.
        jitter: images are rolled by up to so many pixels before the teacher sees them, one offset a batch.

    Source: arXiv:2012.05578, sections 3.1 to 3.3.
    """

    label_weight: float = Field(default=1.0, ge=0)
    total_variation_weight: float = Field(default=6e-3, ge=0)
    l2_weight: float = Field(default=1.5e-5, ge=0)
    moments_weight: float = Field(default=10.0, ge=0)
    targets: Literal["global", "class"] = "global"
    images_per_class: int = Field(default=16, ge=2)
    jitter: int = Field(default=0, ge=0)

    @property
    def further_needs(self) -> tuple[str, ...]:
        """Moments of each class, where they are the targets."""
        return ("class_moments",) if self.targets == "class" and self.moments_weight else ()

    def classes_per_batch(self, fewest: int) -> int:
        """How many classes share one generator's batch, each with as many images as the next.

        Args:
            fewest: classes of the generator that has the fewest: all of an ensemble take the same number.
        """
        if self.targets == "global":
            return 1
        most = max(min(self.batch // self.images_per_class, fewest), 1)
        # parts of one size alone can be told apart again, see `losses.moments`
        return next(count for count in range(most, 0, -1) if self.batch % count == 0)

    @model_validator(mode="after")
    def _effective(self) -> Self:
        if self.targets == "global":
            refuse_idle(self, ["images_per_class"], "where targets is global")
        if not self.moments_weight:
            refuse_idle(self, ["targets"], "where moments_weight is 0")
        return self


class LSGDFD(ConditionalSynthesizer[LSGDFDConfig]):
    """One conditional generator, or an ensemble of them for slices of the classes, that never look at a student.

    L = label * CE(T(x), y) + tv * TV(x) + l2 * ||x||^2 + moments * sum_l r_l,    x = G(z | y)

    An ensemble minimises the sum of what each generator alone would. Where the statistics of classes are the targets, r_l of a batch of
    several classes is the mean over them.

    Source: arXiv:2012.05578, equations 2 and 4, section 3.3.
    """

    def __init__(self, config: LSGDFDConfig, ingredients: Ingredients) -> None:
        super().__init__("ls_gdfd", config, ingredients)
        by_class = config.targets == "class"
        self._matcher = build_matcher("ls_gdfd", config.moments_weight, ingredients, by_class=by_class)
        self._classes = config.classes_per_batch(ingredients.teacher.num_classes // ingredients.share.total)

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms whose weight is above 0; the teacher sees the jittered images, the priors the images themselves."""
        config, images, groups = self.config, made.images, made.groups
        # rolled for the teacher alone: a prior on neighbours would smooth the seam where a roll joins opposite edges
        with self.runtime.autocast():
            logits, moments = self._matcher.observe(self._jittered(made), groups * self._classes)
        terms = {}
        if config.label_weight:
            # generators make equally many images, so their means add up to G times the mean over all
            terms["label"] = config.label_weight * groups * functional.cross_entropy(full_precision(logits), made.labels)
        if config.total_variation_weight:
            terms["total_variation"] = config.total_variation_weight * total_variation_l2(images, groups)
        if config.l2_weight:
            terms["l2"] = config.l2_weight * squared_norm(images, groups)
        if config.moments_weight:
            # each part of a batch is of one class, which its first label names; a mean over the parts of a generator, so that its weight
            # means the same however many classes share a batch
            shown = made.labels.unflatten(0, (groups * self._classes, -1))[:, 0]
            terms["moments"] = config.moments_weight * self._matcher.distance(moments, shown) / self._classes
        return terms

    def draw_labels(self, classes: range, draws: torch.Generator) -> Tensor:
        """One generator's batch: each label by itself, or under `targets: class` some classes, the images of each side by side."""
        if self.config.targets == "global":
            return super().draw_labels(classes, draws)
        shown = torch.randperm(len(classes), generator=draws)[: self._classes] + classes.start
        return shown.repeat_interleave(self.config.batch // self._classes)

    def _jittered(self, made: Generated) -> Tensor:
        """Each generator's images moved by an offset of its own."""
        reach = self.config.jitter
        if reach == 0:
            return made.images
        moved = []
        for images, draws in zip(made.images.chunk(made.groups), made.draws, strict=True):
            down, right = torch.randint(-reach, reach + 1, (2,), generator=draws).tolist()
            moved.append(torch.roll(images, (down, right), dims=(2, 3)))
        return torch.cat(moved) if len(moved) > 1 else moved[0]
