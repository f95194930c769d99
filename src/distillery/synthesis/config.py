"""What every method's settings answer, so that nobody guesses from the names of keys; imports no torch."""

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from distillery.config import Beta, Config
from distillery.models.generators.config import GeneratorConfig

if TYPE_CHECKING:
    from distillery.types import Classifier

WEIGHT = "_weight"
"""Ending of the fields that weigh a term: a method's loss is the sum of its terms, each times its weight."""


class MethodConfig(Config):
    """Settings of a data-free method; each method's config derives from it.

    A field whose name ends in `_weight` weighs one term of the loss; settings under which all of them are 0 are refused here, for every
    method. What a method needs of a teacher stands in its catalog row, with the weight that lifts the need when it is 0.
    """

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, by setting."""
        return {name: float(getattr(self, name)) for name in type(self).model_fields if name.endswith(WEIGHT)}

    @property
    def images_per_turn(self) -> int:
        """Images that one turn makes, of one generator where there are several; 0 for a method that makes none as it learns."""
        return 0

    @property
    def steps_per_turn(self) -> int:
        """Like steps that one turn takes one after another, of one generator: its time grows with them in a straight line."""
        return 1

    @property
    def further_needs(self) -> tuple[str, ...]:
        """What these settings need beside what the catalog row says, in the row's words: for settings that are no weights."""
        return ()

    @property
    def warmup_turns(self) -> int:
        """Turns at the start in which the student must not train."""
        return 0

    def check_networks(self, teacher: "Classifier", student: "Classifier") -> None:
        """Refuse networks that cannot be shown what the method shows them, before anything is trained; by default nothing is refused.

        Args:
            teacher: frozen, in eval mode.
            student: likewise. Both may stand on the meta device.

        Raises:
            ConfigError: names the setting.
        """

    def cut(self, images: int, steps: int) -> Self:
        """The same settings with a smaller turn and without warm-up, so that a turn's cost can be measured in little time.

        Args:
            images: becomes `images_per_turn`, of one generator.
            steps: becomes `steps_per_turn`; 1 or more.
        """
        return self

    def one_step(self) -> Self:
        """The same settings cut to one step a turn: the least work that a turn of that many images can be."""
        return self.cut(self.images_per_turn, 1)

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if (weights := self.weights) and not any(weights.values()):
            *first, last = weights
            named = f"{', '.join(first)} and {last} are all 0" if first else f"{last} is 0"
            raise ValueError(f"{named}, so nothing is left to minimise: give one of them a weight above 0")
        return self


class ConditionalConfig(MethodConfig):
    """Settings of a conditional generator's training, of each where there are several; a method adds the weights of its terms.

    Attributes:
        generator: its network.
        batch: images a step.
        steps_per_round: generator steps of one turn.
        rate: Adam's rate.
        betas: Adam's momenta.
    """

    generator: GeneratorConfig = GeneratorConfig(name="conditional", latent=1024, width=64, condition="one_hot")
    batch: int = Field(default=128, ge=2)
    steps_per_round: int = Field(default=500, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)

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
