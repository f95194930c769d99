"""What a recipe holds; every part's settings are that part's own class."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from distillery.config import Config
from distillery.engine.materialize import SetConfig
from distillery.errors import ConfigError
from distillery.evaluation.health import HealthConfig
from distillery.evaluation.report import EvaluationConfig
from distillery.methods.catalog import METHODS, Method, find_method
from distillery.models.catalog import check_architecture
from distillery.recipes.about import About, Expects
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.effects import check_effects, drop_idle
from distillery.runtime import Precision
from distillery.step_table import DEFAULT_KIND, STATISTICS_KIND, check_kind, find_pipeline
from distillery.students.plan import StudentConfig, needs_of
from distillery.synthesis.config import MethodConfig
from distillery.tracking.protocol import RegistrationConfig


class StudentExpects(Expects):
    """What a recipe of a student was written for.

    Attributes:
        student_start: weights for the student to begin with have to be given; else they may be.
    """

    student_start: bool = False


class StatisticsConfig(Config):
    """Which moments of the teacher a pipeline extracts: those that need no data."""

    kind: Literal["global"] = "global"


class SynthesisConfig(Config):
    """How long a method learns, and how the student is fed meanwhile where the method is online.

    Attributes:
        config: the method's own settings, parsed by the config class of its catalog row.
        generators: how many of them are trained, each for its slice of the teacher's classes; `classes` is one a class. More than one is an
            ensemble.
        shard_memory_gib: memory that one shard of an ensemble, some of its generators trained as one network, may take; 0 is what the
            machine that trains has, as far as the plan can see it.
        rounds: of the synthesizer, needed where the method learns in rounds; a round is what is booked: one line of history, one
            checkpoint, one shard.
        turns_per_round: a turn is one `advance` of the method and, in online distillation, the student's steps after it.
        checkpoint_every: rounds between two checkpoints.
        student_steps_per_turn: of online distillation, after each turn but those of the method's warm-up.
        closing_rounds: of online distillation, after the synthesizer's last: the student alone trains, on the pool as it then is.
        feed: what the student sees in online distillation; empty is the catalog's choice.
        record: what the set keeps of images that the student sees only once (`feed: round` and `feed: fresh`): all, or a uniform sample of
            so many, the held-out share included.
    """

    method: str
    generators: Annotated[int, Field(ge=1)] | Literal["classes"] = 1
    shard_memory_gib: float = Field(default=0, ge=0)
    rounds: int = Field(default=0, ge=1)
    turns_per_round: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    student_steps_per_turn: int = Field(default=0, ge=0)
    closing_rounds: int = Field(default=0, ge=0)
    feed: Literal["", "pool", "round", "fresh"] = ""
    record: Literal["all"] | Annotated[int, Field(ge=2)] = "all"
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and (old := "student_steps_per_round") in given:
            raise ValueError(
                f"{old} = {given[old]!r} is called student_steps_per_turn now, and a round has one turn unless turns_per_round says more: "
                "rename the key, its number stays"
            )
        return given


class DistillationRecipe(Config):
    """One way from a teacher to a student, without data.

    Attributes:
        kind: sets it apart from recipes of other kinds; a recipe that names none is of this one.
    """

    kind: Literal["distillation"] = "distillation"
    about: About = About()
    expects: Expects = Expects()
    precision: Precision = "auto"
    statistics: StatisticsConfig = StatisticsConfig()
    synthesis: SynthesisConfig
    set: SetConfig = SetConfig()
    health: HealthConfig = HealthConfig()
    student: StudentConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    registration: RegistrationConfig = RegistrationConfig()

    @classmethod
    def resolve(cls, document: Mapping[str, Any]) -> "DistillationRecipe":
        """Parse a recipe's raw mapping down to its method's settings and its student's architecture; what it leaves open is filled in.

        Raises:
            ConfigError: one sentence about the first thing that is wrong.
        """
        recipe: DistillationRecipe = cls.parse(document)
        method = find_method(recipe.synthesis.method)
        check_effects(document, method)
        settings = method.parse(recipe.synthesis.config, "synthesis.config")
        check_architecture(recipe.student.architecture)
        update = {"config": settings.to_json(), "feed": recipe.synthesis.feed or method.feed}
        if not (recipe.synthesis.rounds or method.inverts):
            raise ConfigError(f"synthesis.rounds is missing: {method.title} learns in rounds, so give 1 or more.")
        recipe = recipe.model_copy(update={"synthesis": recipe.synthesis.model_copy(update=update)})
        _check_ensemble(recipe)
        return _resolve_online(recipe) if method.coupling == "online" else recipe

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without those that the method never reads: a record says what counted, and can be given as a recipe again."""
        document = super().to_json()
        del document["kind"]  # the default, which records and hashes of recipes never held
        drop_idle(document, self.method)
        return document

    @property
    def turns(self) -> int:
        """The synthesizer's turns, of all its rounds; those that fill the set where each makes a batch of it from nothing."""
        if self.method.inverts:
            return -(-self.set.size // self.settings.images_per_turn)
        return self.synthesis.rounds * self.synthesis.turns_per_round

    @property
    def trained_turns(self) -> int:
        """The synthesizer's turns after which the student trains: all but the method's warm-up."""
        return max(self.turns - self.settings.warmup_turns, 0)

    @property
    def online_steps(self) -> int:
        """The student's steps in online distillation, beside the synthesizer and after it."""
        closing = self.synthesis.closing_rounds * self.synthesis.turns_per_round
        return (self.trained_turns + closing) * self.synthesis.student_steps_per_turn

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
        return self.method.pipeline_for(self.synthesis.generators)

    def generators(self, num_classes: int) -> int:
        """How many generators are trained for a teacher.

        Args:
            num_classes: of the teacher.

        Raises:
            ConfigError: more than it has classes.
        """
        given = self.synthesis.generators
        if given == "classes":
            return num_classes
        if given > num_classes:
            raise ConfigError(
                f"synthesis.generators = {given} is not allowed: each generator needs a class of its own, and the teacher has "
                f"{num_classes}; give {num_classes} or fewer, or classes for one a class."
            )
        return given


class DataConfig(Config):
    """How the images that a student is given are read.

    Attributes:
        labels: of real images: `auto` reads them where an objective of the student looks at them, `read` also where none does, `ignore`
            lets be whatever labels stand beside the images. A synthetic set has none.
        holdout: share of real images that no student trains on and the best epoch is chosen by; 0 trains on all. A set withholds its own
            as it is made.
    """

    labels: Literal["auto", "read", "ignore"] = "auto"
    holdout: float = Field(default=0, ge=0, le=0.5)


class StudentRecipe(Config):
    """One way to train a student on images that are there: a synthetic set, or real ones.

    Attributes:
        kind: sets it apart from recipes of other kinds.
    """

    kind: Literal["student"] = "student"
    about: About = About()
    expects: StudentExpects = StudentExpects()
    precision: Precision = "auto"
    data: DataConfig = DataConfig()
    student: StudentConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    registration: RegistrationConfig = RegistrationConfig()

    @classmethod
    def resolve(cls, document: Mapping[str, Any]) -> "StudentRecipe":
        """Parse a recipe's raw mapping down to its student's architecture.

        Raises:
            ConfigError: one sentence about the first thing that is wrong.
        """
        recipe: StudentRecipe = cls.parse(document)
        check_architecture(recipe.student.architecture)
        if recipe.data.labels == "ignore":
            _check_unread(recipe.student)
        return recipe

    @property
    def pipeline(self) -> str:
        """The pipeline that runs this recipe."""
        return find_pipeline(self.kind)


Recipe: TypeAlias = DistillationRecipe | StudentRecipe | StatisticsRecipe
"""A recipe of any kind: the union of their classes."""
StudentsRecipe: TypeAlias = DistillationRecipe | StudentRecipe
"""A recipe of a kind that trains a student."""
KINDS: dict[str, type[DistillationRecipe] | type[StudentRecipe] | type[StatisticsRecipe]] = {
    DEFAULT_KIND: DistillationRecipe,
    "student": StudentRecipe,
    STATISTICS_KIND: StatisticsRecipe,
}
"""The class of each kind."""


def read_recipe(document: Mapping[str, Any]) -> Recipe:
    """Parse a recipe's raw mapping by the class of its kind, as far as that goes.

    Raises:
        ConfigError: one sentence about the first thing that is wrong.
    """
    kind = str(document.get("kind", DEFAULT_KIND))
    check_kind(kind)
    return KINDS[kind].resolve(document)


def training(recipe: Recipe) -> StudentsRecipe:
    """The recipe, unless it trains no student.

    Raises:
        ConfigError: it measures statistics.
    """
    if isinstance(recipe, StatisticsRecipe):
        raise ConfigError(
            "A recipe of kind statistics measures the teacher's statistics of each class and trains no student: give it to `distillery "
            "run` or `distillery invert`, or give a recipe of another kind here."
        )
    return recipe


def _check_unread(student: StudentConfig) -> None:
    """Refuse objectives that need labels which nobody reads."""
    for number, stage in enumerate(student.stages):
        for objective in stage.objectives:
            if "labels" in needs_of(objective):
                raise ConfigError(
                    f"data.labels: ignore lets labels be, and the objective {objective['name']} of student.stages.{number} needs them: "
                    "set it to auto, or take kd, whose hard labels are then the teacher's."
                )


def _check_ensemble(recipe: DistillationRecipe) -> None:
    """Refuse several generators of a method that trains exactly one, and a shard's memory where there are no shards."""
    synthesis, method = recipe.synthesis, recipe.method
    if synthesis.generators != 1 and not method.ensembles:
        able = ", ".join(row.name for row in METHODS.values() if row.ensembles)
        raise ConfigError(
            f"synthesis.generators = {synthesis.generators} is not allowed: {method.title} trains one generator of all classes; leave it "
            f"out, or choose a method that can be an ensemble: {able}."
        )
    if synthesis.shard_memory_gib and synthesis.generators == 1:
        raise ConfigError(
            f"synthesis.shard_memory_gib = {synthesis.shard_memory_gib:g} has no effect on one generator, which is trained whole: leave it "
            "out, or give synthesis.generators more than 1."
        )


def _resolve_online(recipe: DistillationRecipe) -> DistillationRecipe:
    """Where the set still grows, an epoch that names no length is a round's student steps, of all its turns."""
    title, synthesis = recipe.method.title, recipe.synthesis
    if not synthesis.student_steps_per_turn:
        raise ConfigError(f"synthesis.student_steps_per_turn is missing: {title} trains the student after each turn, so give 1 or more.")
    if not recipe.trained_turns:
        raise ConfigError(
            f"synthesis.rounds = {synthesis.rounds} is not allowed: {title} warms up for {recipe.settings.warmup_turns} turns without "
            f"training the student, so give more rounds, more synthesis.turns_per_round or a smaller synthesis.config.warmup."
        )
    if synthesis.closing_rounds and synthesis.feed != "pool":
        raise ConfigError(
            f"synthesis.closing_rounds = {synthesis.closing_rounds} is not allowed with synthesis.feed: {synthesis.feed}: no images come "
            "any more in these rounds, so feed the pool, or give 0."
        )
    if synthesis.record != "all" and synthesis.feed == "pool":
        raise ConfigError(
            f"synthesis.record = {synthesis.record} is not allowed with synthesis.feed: pool: the student sees all images again "
            "and again, so the set keeps them all; leave record out, or feed round or fresh."
        )
    per_round = {"steps_per_epoch": synthesis.student_steps_per_turn * synthesis.turns_per_round}
    stages = tuple(stage if stage.steps_per_epoch else stage.model_copy(update=per_round) for stage in recipe.student.stages)
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"stages": stages})})
