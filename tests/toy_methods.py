"""Methods that no paper has, one of each kind that the seams must carry; the contract tests run over them as over the catalog's rows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import ConfigError
from distillery.losses.priors import total_variation_l2
from distillery.methods.catalog import METHODS, Method
from distillery.numerics import full_precision
from distillery.optim.restore import restore_strides
from distillery.seeding import seeded
from distillery.synthesis.common import needed_ood
from distillery.synthesis.conditional import ConditionalSynthesizer
from distillery.synthesis.config import ConditionalConfig
from distillery.synthesis.inversion import InversionConfig, InversionSynthesizer, View
from distillery.synthesis.learner import Generated
from distillery.synthesis.matching import build_matcher
from distillery.synthesis.protocol import Ingredients, Turn
from distillery.types import Batch, Classifier


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
        logits = self.teacher(made.images)
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), made.labels)
        if config.decoder_weight:
            guess = self.beside["decoder"](made.images)
            terms["decoder"] = config.decoder_weight * torch.mean((guess - made.latent) ** 2)
        return terms


class ToyInversionConfig(InversionConfig):
    """Settings of `ToyInversion`.

    Attributes:
        label_weight: of CE(T(x), y).
        smooth_weight: of TV(x).
    """

    label_weight: float = 1.0
    smooth_weight: float = 1e-3


class ToyInversion(InversionSynthesizer[ToyInversionConfig]):
    """Images made from noise by gradients on their pixels: nothing is learned but the images themselves."""

    def __init__(self, config: ToyInversionConfig, ingredients: Ingredients) -> None:
        super().__init__("toy_inversion", config, ingredients)

    def terms(self, view: View, student: Classifier | None) -> dict[str, Tensor]:
        """Cross-entropy and smoothness."""
        config, terms = self.config, dict[str, Tensor]()
        logits = self.teacher(view.images)
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), view.labels)
        if config.smooth_weight:
            terms["smooth"] = config.smooth_weight * total_variation_l2(view.pixels)
        return terms


class ToyCriticConfig(ConditionalConfig):
    """Settings of `ToyCritic`.

    Attributes:
        label_weight: of CE(T(x), y).
        realism_weight: of -log D(x), D told images of another domain from generated ones.
    """

    label_weight: float = 1.0
    realism_weight: float = 1.0


class ToyCritic(ConditionalSynthesizer[ToyCriticConfig]):
    """A generator against a discriminator that sees images of another domain; it matches no moments."""

    def __init__(self, config: ToyCriticConfig, ingredients: Ingredients) -> None:
        super().__init__("toy_critic", config, ingredients)
        self._ood = needed_ood("toy_critic", config.realism_weight, ingredients)
        with seeded(ingredients.seed, "toy_critic", "discriminator"):
            discriminator = nn.Sequential(nn.Conv2d(self.teacher.spec.channels, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1))
        self._discriminator = self.runtime.place(discriminator)
        self._critic_optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The discriminator takes its own step, then judges."""
        config, terms = self.config, dict[str, Tensor]()
        logits = self.teacher(made.images)
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), made.labels)
        if self._ood is not None:
            (real,) = self._ood.draw(config.batch, 1, made.draws[0])
            wrong = functional.softplus(-self._discriminator(real)) + functional.softplus(self._discriminator(made.images.detach()))
            self._critic_optimizer.zero_grad()
            wrong.mean().backward()
            self._critic_optimizer.step()
            terms["realism"] = config.realism_weight * functional.softplus(-self._discriminator(made.images)).mean()
        return terms

    def state_dict(self) -> dict[str, Any]:
        """The generator's and the discriminator's."""
        critic = {"critic": self._discriminator.state_dict(), "critic_optimizer": self._critic_optimizer.state_dict()}
        return super().state_dict() | critic

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self._discriminator.load_state_dict(state["critic"])
        self._critic_optimizer.load_state_dict(state["critic_optimizer"])
        restore_strides(self._critic_optimizer)


class ToyClassesConfig(ConditionalConfig):
    """Settings of `ToyClasses`.

    Attributes:
        label_weight: of CE(T(x), y).
        moments_weight: of the distance from the moments of each class.
    """

    label_weight: float = 1.0
    moments_weight: float = 1.0


class ToyClasses(ConditionalSynthesizer[ToyClassesConfig]):
    """A generator that matches the moments of each class: half of a batch is of one, half of another."""

    def __init__(self, config: ToyClassesConfig, ingredients: Ingredients) -> None:
        super().__init__("toy_classes", config, ingredients)
        self._matcher = build_matcher("toy_classes", config.moments_weight, ingredients, by_class=True)

    def draw_labels(self, classes: range, draws: torch.Generator) -> Tensor:
        """Two classes, the images of each side by side."""
        return torch.randperm(len(classes), generator=draws)[:2].repeat_interleave(self.config.batch // 2) + classes.start

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """Cross-entropy and the distance of both halves."""
        config, terms = self.config, dict[str, Tensor]()
        logits, moments = self._matcher.observe(made.images, 2)
        if config.label_weight:
            terms["label"] = config.label_weight * functional.cross_entropy(full_precision(logits), made.labels)
        if config.moments_weight:
            terms["moments"] = config.moments_weight * self._matcher.distance(moments, made.labels.unflatten(0, (2, -1))[:, 0])
        return terms


class ToyBlindConfig(ConditionalConfig):
    """Settings of `ToyBlind`.

    Attributes:
        confidence_weight: of the entropy of the teacher's answer.
    """

    confidence_weight: float = 1.0


class ToyBlind(ConditionalSynthesizer[ToyBlindConfig]):
    """A generator of whatever the teacher is sure of: nobody can ask it for a class, and it says none."""

    def __init__(self, config: ToyBlindConfig, ingredients: Ingredients) -> None:
        super().__init__("toy_blind", config, ingredients)

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The entropy alone."""
        shares = full_precision(self.teacher(made.images)).log_softmax(1)
        return {"confidence": -self.config.confidence_weight * (shares.exp() * shares).sum(1).mean()}

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """A turn whose images have no labels."""
        turn = super().advance(student, labels)
        return replace(turn, batch=turn.batch and Batch(turn.batch.images))

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images of whatever classes."""
        if labels is not None:
            raise ConfigError(f"toy_blind makes images of no class that is asked for, and got {len(labels)} labels: leave the labels out.")
        return Batch(super().synthesize(n).images)


class ToyOpponentConfig(ConditionalConfig):
    """Settings of `ToyOpponent`.

    Attributes:
        disagreement_weight: of -|T(x) - S(x)|.
    """

    disagreement_weight: float = 1.0


class ToyOpponent(ConditionalSynthesizer[ToyOpponentConfig]):
    """A generator of what teacher and student disagree on: without a student there is nothing to learn."""

    def __init__(self, config: ToyOpponentConfig, ingredients: Ingredients) -> None:
        super().__init__("toy_opponent", config, ingredients)

    def terms(self, made: Generated, student: Classifier | None) -> dict[str, Tensor]:
        """The disagreement alone."""
        if student is None:
            raise ConfigError("toy_opponent plays against a student and got none: run it online.")
        apart = (self.teacher(made.images) - student(made.images)).abs().mean()
        return {"disagreement": -self.config.disagreement_weight * apart}


@dataclass(frozen=True)
class Toy:
    """A row that is in the catalog while a test has registered it, and settings under which a turn takes a fraction of a second."""

    row: Method
    tiny: dict[str, Any]


_GENERATOR = {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"}
_CONDITIONAL = {"generator": _GENERATOR, "batch": 8, "steps_per_round": 2}


def _row(name: str, summary: str, **fields: Any) -> Method:
    implementation = f"{__name__}:{name.title().replace('_', '')}"
    kind = {"target": "generator", "coupling": "offline", "feed": "pool", **fields}
    return Method(name=name, title=name.title().replace("_", " "), paper="nobody's", summary=summary, implementation=implementation, **kind)


TOYS: dict[str, Toy] = {
    toy.row.name: toy
    for toy in (
        Toy(_row("toy_decoder", "A network beside the generator."), _CONDITIONAL),
        Toy(_row("toy_inversion", "Images as the target.", target="images"), {"batch": 8, "steps": 2}),
        Toy(_row("toy_critic", "A discriminator and images of another domain.", needs={"ood": "realism_weight"}), _CONDITIONAL),
        Toy(_row("toy_classes", "Moments of each class.", needs={"class_moments": "moments_weight"}), _CONDITIONAL),
        Toy(_row("toy_blind", "Images of no class that is asked for.", classes=False), _CONDITIONAL),
        Toy(_row("toy_opponent", "No terms without a student.", coupling="online", feed="round"), _CONDITIONAL),
    )
}


@contextmanager
def registered() -> Iterator[None]:
    """Have the toys in the catalog for a while."""
    METHODS.update({name: toy.row for name, toy in TOYS.items()})
    try:
        yield
    finally:
        for name in TOYS:
            del METHODS[name]
