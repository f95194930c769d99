"""Methods that no paper has, one of each kind that the seams must carry; the contract tests run over them as over the catalog's rows."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.numerics import full_precision
from distillery.seeding import seeded
from distillery.synthesis.conditional import ConditionalConfig, ConditionalSynthesizer, Generated
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier


class ToyDecoderConfig(ConditionalConfig):
    """Settings of `ToyDecoder`.

    Attributes:
        label_weight: of CE(T(x), y).
        decoder_weight: of the squared error of D(x) as a guess of z.
    """

    label_weight: float = 1.0
    decoder_weight: float = 1.0


class ToyDecoder(ConditionalSynthesizer[ToyDecoderConfig]):
    """A conditional generator beside a decoder that must read z off the images; it matches no moments."""

    def __init__(self, config: ToyDecoderConfig, ingredients: Ingredients) -> None:
        spec = ingredients.teacher.spec
        with seeded(ingredients.seed, "toy_decoder", "decoder"):
            decoder = nn.Sequential(nn.Flatten(), nn.Linear(spec.channels * spec.height * spec.width, config.generator.latent))
        super().__init__("toy_decoder", config, ingredients, {"decoder": decoder})

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """Cross-entropy and reconstruction."""
        config, terms = self.config, dict[str, Tensor]()
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(self.teacher(made.images)), made.labels)
        if config.decoder_weight:
            guess = self.beside["decoder"](made.images)
            terms["decoder"] = config.decoder_weight * torch.mean((guess - made.latent) ** 2)
        return terms
