"""LS-GDFD: a label-conditional generator trained before any student exists.

Luo et al., "Large-Scale Generative Data-Free Distillation", arXiv:2012.05578.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from distillery.losses.priors import squared_norm, total_variation_l2
from distillery.numerics import full_precision
from distillery.synthesis.conditional import ConditionalConfig, ConditionalSynthesizer, Generated
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier


class LSGDFDConfig(ConditionalConfig):
    """Settings of LS-GDFD with one conditional generator, beside those of its training.

    The paper publishes no loss weights, optimiser or schedule: the defaults are ours, measured in `docs/methods/ls_gdfd.md`.

    Attributes:
        label_weight: weight of CE(T(x), y), the first part of inceptionism; 0 with the two below is moment matching alone.
        total_variation_weight: lambda_t, on the sum of L2 norms over the batch.
        l2_weight: lambda_l2, on the mean squared norm of an image.
        moments_weight: lambda_S, on the distance to the teacher's BatchNorm statistics; 0 is inceptionism alone.
        jitter: images are rolled by up to so many pixels before the teacher sees them, one offset a batch.

    Source: arXiv:2012.05578, sections 3.1 and 3.2.
    """

    label_weight: float = Field(default=1.0, ge=0)
    total_variation_weight: float = Field(default=6e-3, ge=0)
    l2_weight: float = Field(default=1.5e-5, ge=0)
    moments_weight: float = Field(default=10.0, ge=0)
    jitter: int = Field(default=0, ge=0)


class LSGDFD(ConditionalSynthesizer[LSGDFDConfig]):
    """One conditional generator that never looks at a student.

    L = label * CE(T(x), y) + tv * TV(x) + l2 * ||x||^2 + moments * sum_l r_l,    x = G(z | y)

    Source: arXiv:2012.05578, equations 2 and 4.
    """

    def __init__(self, config: LSGDFDConfig, ingredients: Ingredients) -> None:
        super().__init__("ls_gdfd", config, ingredients)
        self._matcher = build_matcher("ls_gdfd", config.moments_weight, ingredients)

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The weighted terms whose weight is above 0; the teacher sees the jittered images, the priors the images themselves."""
        config, images = self.config, made.images
        with self.runtime.autocast():
            logits, moments = self._matcher.observe(self._jittered(images))
        terms = {}
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), made.labels)
        if config.total_variation_weight:
            terms["total_variation"] = config.total_variation_weight * total_variation_l2(images)
        if config.l2_weight:
            terms["l2"] = config.l2_weight * squared_norm(images)
        if config.moments_weight:
            terms["moments"] = config.moments_weight * self._matcher.distance(moments)
        return terms

    def _jittered(self, images: Tensor) -> Tensor:
        reach = self.config.jitter
        if reach == 0:
            return images
        down, right = torch.randint(-reach, reach + 1, (2,), generator=self.learning).tolist()
        return torch.roll(images, (down, right), dims=(2, 3))
