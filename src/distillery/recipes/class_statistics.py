"""Recipes of kind statistics: the teacher's moments of each class, from images that are inverted from it or that are there."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from distillery.config import Config
from distillery.engine.materialize import QuotaConfig, SetConfig
from distillery.errors import ConfigError
from distillery.evaluation.health import HealthConfig
from distillery.methods.catalog import Method, find_method
from distillery.recipes.about import About, Expects
from distillery.runtime import Precision
from distillery.statistics.counts import STABLE_IMAGES
from distillery.step_table import STATISTICS_KIND, find_pipeline
from distillery.synthesis.config import MethodConfig


class InvertedImages(Config):
    """How images are inverted that the teacher's statistics are measured on; without a method none are, and the run is given some.

    Attributes:
        config: the method's own settings, parsed by the config class of its catalog row.
    """

    method: str = ""
    config: dict[str, Any] = Field(default_factory=dict)


class StatisticsRecipe(Config):
    """One way to a teacher's statistics of each class: from images that are inverted from it, or from images that are there.

    Attributes:
        kind: sets it apart from recipes of other kinds.
        per_class: images that are inverted of each class, as the teacher sees them.
        set: how the set of them is filled; none is held out.
        health: when that set counts as collapsed.
    """

    kind: Literal["statistics"] = "statistics"
    about: About = About()
    expects: Expects = Expects()
    precision: Precision = "auto"
    synthesis: InvertedImages = InvertedImages()
    per_class: int = Field(default=STABLE_IMAGES, ge=2)
    set: QuotaConfig = QuotaConfig()
    health: HealthConfig = HealthConfig()

    @classmethod
    def resolve(cls, document: Mapping[str, Any]) -> "StatisticsRecipe":
        """Parse a recipe's raw mapping down to its method's settings.

        Raises:
            ConfigError: one sentence about the first thing that is wrong, such as a method that inverts no images.
        """
        synthesis = document.get("synthesis")
        if isinstance(synthesis, Mapping) and synthesis.get("method"):  # first: what else another method's recipe says is of no use here
            find_method(str(synthesis["method"])).pipeline_for(synthesis.get("generators", 1), STATISTICS_KIND)
        recipe: StatisticsRecipe = cls.parse(document)
        if recipe.inverts:
            settings = recipe.settings
            return recipe.model_copy(update={"synthesis": recipe.synthesis.model_copy(update={"config": settings.to_json()})})
        idle = [name for name in ("synthesis", "per_class", "set", "health") if getattr(recipe, name) != getattr(cls(), name)]
        if idle:
            raise ConfigError(f"{idle[0]} has no effect without synthesis.method, by which images are inverted: name one, or leave it out.")
        return recipe

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without those that are read of a method's images only, where there is none."""
        document = super().to_json()
        return {name: value for name, value in document.items() if self.inverts or name not in ("synthesis", "per_class", "set", "health")}

    @property
    def inverts(self) -> bool:
        """Whether images are inverted; else the run is given some."""
        return bool(self.synthesis.method)

    @property
    def method(self) -> Method:
        """The catalog's row of the recipe's method."""
        return find_method(self.synthesis.method)

    @property
    def settings(self) -> MethodConfig:
        """The method's settings, parsed by the config class of its row."""
        return self.method.parse(self.synthesis.config, "synthesis.config")

    @property
    def pipeline(self) -> str:
        """The pipeline that runs this recipe."""
        return self.method.pipeline_for(1, self.kind) if self.inverts else find_pipeline(self.kind)

    def drawn(self, num_classes: int) -> SetConfig:
        """The set that is inverted from a teacher: equal quotas, and all of it to measure on."""
        return SetConfig.parse({**self.set.to_json(), "size": self.per_class * num_classes, "holdout": 0.0}, "set")
