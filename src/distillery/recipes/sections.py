"""The section that each step gets of a recipe: its own part, with what names the run, the teacher and the code."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from distillery.config import Config
from distillery.engine.materialize import SetConfig
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.evaluation.health import HealthConfig
from distillery.evaluation.report import EvaluationConfig
from distillery.methods.catalog import find_method
from distillery.models.catalog import Architecture, code_of_others
from distillery.provenance import code_version
from distillery.recipes.parameters import LARGEST_SEED
from distillery.runtime import Precision
from distillery.statistics.moments import Kind
from distillery.students.plan import StudentConfig
from distillery.synthesis.share import ALONE, Share
from distillery.tracking.protocol import RegistrationConfig

Feed = Literal["pool", "round", "fresh"]


class Section(Config):
    """What every step gets; no run id, name, time, path or credential stands here, because the section enters the step's key.

    Attributes:
        salt: a new value forces new work.
        teacher_sha256: the teacher that the plan was made for; a step refuses another.
        code_version: of the code that planned it; a step refuses another, and no key holds it.
        sources: sha256 of the user's own modules that the step builds a network from, by name; a step refuses others.
        packages: of others that it builds a network from; their versions, as the step finds them, enter its key.
        precision: `auto` until the step runs on its hardware.
    """

    seed: int = Field(ge=0, le=LARGEST_SEED)
    salt: str = ""
    code_version: str
    teacher_sha256: str
    sources: dict[str, str] = Field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: object, where: str = "") -> Self:
        """Parse a section.

        Args:
            value: as the plan handed it out.
            where: its name.

        Raises:
            ConfigError: one sentence about the first thing that is wrong.
            CheckpointMismatchError: it is wrong because other code planned it.
        """
        try:
            return super().parse(value, where)
        except ConfigError:
            planned = value.get("code_version") if isinstance(value, Mapping) else None
            if isinstance(planned, str):
                check_code(where or cls.__name__, planned)
            raise

    precision: Precision = "auto"


def common_fields(seed: object, teacher_sha256: str, precision: Precision, *architectures: Architecture) -> dict[str, Any]:
    """What every section of a run has, as whoever asks a step for work writes it; a plan that has a salt adds it.

    Args:
        seed: of every random stream, a number that the section checks.
        teacher_sha256: of the teacher's bundle.
        precision: as the recipe says it.
        architectures: of the networks that the step builds.

    Raises:
        ConfigError: a module of the user's own that one of them is of is not there.
    """
    others = code_of_others(*architectures)
    return {"seed": seed, "code_version": code_version(), "teacher_sha256": teacher_sha256, **others, "precision": precision}


class StatisticsSection(Section):
    """Which moments are read: the teacher's own, or those of a file.

    Attributes:
        kind: of the moments.
        given_sha256: of a file of moments that the run was given; "" where they are the teacher's own.
        measured_on: what that file says its moments of classes were measured on; "" for nothing.
    """

    kind: Kind = "global"
    given_sha256: str = ""
    measured_on: Literal["", "data", "set"] = ""


class ClassStatisticsSection(Section):
    """Measuring the moments of each class asks for nothing but the images that its step is handed."""


class OodSection(Section):
    """What the sections of the steps that may use images of another domain share.

    Attributes:
        ood_sha256: digest of those images, for a step that uses some; "" for none, whatever its pipeline was given for the others.
    """

    ood_sha256: str = ""


class LearnerSection(OodSection):
    """What the sections of the steps that train a student share.

    Attributes:
        student: what it is, and how it is trained.
        student_start_sha256: hash of the bundle whose weights it begins with; "" where it begins anew.
    """

    student: StudentConfig
    student_start_sha256: str = ""


class MethodSection(OodSection):
    """What the sections of the steps that run a method share; `method_config` is of the config class of the method's catalog row."""

    method: str
    method_config: dict[str, Any]

    @field_validator("method_config")
    @classmethod
    def _parsed(cls, config: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # parsed here too, because integers arrive as floats, and 5.0 must hash as 5
        return find_method(info.data.get("method", "")).parse(config, "method_config").to_json()


class GeneratorSection(MethodSection):
    """How long a generator is trained, or some of an ensemble.

    Attributes:
        share: which of how many generators.
    """

    rounds: int = Field(ge=1)
    turns_per_round: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    share: Share = ALONE


class MaterializeSection(MethodSection):
    """What a set is to hold, and when it counts as collapsed.

    Attributes:
        generators: of which it is drawn; a synthesizer holds one of them, or a share.
    """

    generators: int = Field(default=1, ge=1)
    set: SetConfig
    health: HealthConfig = HealthConfig()


class SourceSection(Section):
    """Which images that were there before the run its student is trained on.

    Attributes:
        sha256: of the set's manifest, or of the real images.
        is_set: whether they are a published set; else they are real images, read where they lie.
        labels: whether the labels of real images are read with them.
        classes: of these labels, where they are others than the teacher's.
        holdout: share of real images that is withheld from training.
    """

    sha256: str
    is_set: bool
    labels: bool = False
    classes: tuple[str, ...] = ()
    holdout: float = Field(default=0, ge=0, le=0.5)


class StudentSection(LearnerSection):
    """How a student is trained.

    Attributes:
        holdout: share of real images that it does not train on, as the step that opened them was told; its key has to know.
    """

    holdout: float = Field(default=0, ge=0, le=0.5)


class DistillSection(MethodSection, LearnerSection):
    """How a synthesizer and a student train each other.

    Attributes:
        start_sha256: hash of the manifest of the set that the pool begins with; "" for none.
        holdout: share of each turn's images that no student trains on.
        health: when the pool counts as collapsed.
        strict: a collapsed pool is an error; else it is published with a warning.
    """

    rounds: int = Field(ge=1)
    turns_per_round: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    student_steps_per_turn: int = Field(ge=1)
    closing_rounds: int = Field(default=0, ge=0)
    feed: Feed
    record: Literal["all"] | Annotated[int, Field(ge=2)] = "all"
    start_sha256: str = ""
    holdout: float = Field(ge=0, le=0.5)
    health: HealthConfig = HealthConfig()
    strict: bool = False


class EvaluationSection(Section):
    """What is measured."""

    evaluation: EvaluationConfig


class RegistrationSection(Section):
    """Under which name a student is registered.

    Attributes:
        recipe: its name, for people; no other section holds it, so that a renamed recipe makes no new work.
    """

    recipe: str
    registration: RegistrationConfig


def check_code(of: str, planned: str) -> None:
    """Refuse a section that other code has planned: the image of a step is not the one that plan ran in.

    Args:
        of: name of the section or of its step.
        planned: the section's `code_version`.

    Raises:
        CheckpointMismatchError: names both.
    """
    if planned == code_version():
        return
    image = os.environ.get("DISTILLERY_IMAGE")
    here = f"the image {image!r}" if image else "the Distillery here"
    raise CheckpointMismatchError(
        f"The section of {of} was planned by code {planned[:12]!r}, but {here} is code {code_version()[:12]!r}, so one is stale: "
        "give every step the image that plan has, compile the pipeline again, and start the run again."
    )


SECTIONS: dict[str, type[Section]] = {
    "statistics": StatisticsSection,
    "generator": GeneratorSection,
    "materialize": MaterializeSection,
    "source": SourceSection,
    "class_statistics": ClassStatisticsSection,
    "student": StudentSection,
    "distill": DistillSection,
    "evaluation": EvaluationSection,
    "registration": RegistrationSection,
}
"""The sections that plans hand out, by the name that the step's row in the table has for it."""
