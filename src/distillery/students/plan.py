"""A student's plan: a tuple of stages, each with objectives, the modules it trains and a schedule.

It runs over a synthetic set, a live synthesizer or a real data set, and does not know which.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, field_validator, model_validator
from torch import nn

from distillery.config import Beta, Config, refuse_idle
from distillery.data.augment import AugmentConfig
from distillery.errors import ConfigError
from distillery.models.catalog import Architecture
from distillery.optim.schedules import ScheduleConfig
from distillery.students.catalog import Need, find_objective
from distillery.students.config import ObjectiveConfig
from distillery.students.paths import near_paths
from distillery.types import Classifier

ALL = "all"
"""In the place of paths: the whole student."""


class OptimizerConfig(Config):
    """The student's optimizer.

    Attributes:
        name: sgd or adam.
        rate: learning rate of the first epoch.
        momentum: sgd only.
        nesterov: sgd only.
        betas: adam only.
        weight_decay: L2 penalty on every trained parameter.
    """

    name: Literal["sgd", "adam"] = "sgd"
    rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        refuse_idle(self, ("betas",) if self.name == "sgd" else ("momentum", "nesterov"), f"with {self.name}")
        return self


def parse_objective(objective: Mapping[str, Any]) -> ObjectiveConfig:
    """The settings of an objective, parsed by the config class of its catalog row.

    Raises:
        ConfigError: no such objective, or settings that it does not have or that have no effect.
    """
    config: ObjectiveConfig = find_objective(str(objective.get("name", ""))).load()[1].parse(objective, "objective")
    return config


def needs_of(objective: Mapping[str, Any]) -> tuple[Need, ...]:
    """What an objective needs under its settings.

    Raises:
        ConfigError: see `parse_objective`.
    """
    return find_objective(str(objective.get("name", ""))).required(parse_objective(objective))


def _parsed(objective: dict[str, Any]) -> dict[str, Any]:
    # parsed here, so that a typo fails in the plan step and that equal settings hash equal
    try:
        return parse_objective(objective).to_json()
    except ConfigError as error:  # the place is named in front of it
        raise ValueError(str(error).removeprefix("objective is not allowed: ")) from None


class StageConfig(Config):
    """One stage of a student's training.

    Attributes:
        objectives: what it minimises the sum of; each a mapping with the objective's `name` and its own settings. `objective: {...}`,
            as documents had it before there could be several, is read as a list of that one.
        trains: "all", or paths of the modules to train (`[network.layer1, network.layer2]`); the rest stays as it is, in eval mode. What
            the objectives train beside the student is trained in any case.
        epochs: how often the student is judged, and a schedule by epochs stepped.
        steps_per_epoch: optimizer steps of one epoch; 0 means one pass over the set (not possible where the set still grows).
        batch: images a step.
        ood_share: share of each batch that comes from another domain than the teacher's; such images are given beside the recipe, and
            enter no set.
        optimizer: a fresh one each stage.
        schedule: of the learning rate, over this stage.
        clip: the largest norm that the gradients of all that is trained may have together; larger ones are scaled down to it. 0 never does.
        augment: applied anew to each batch.
    """

    objectives: tuple[Annotated[dict[str, Any], AfterValidator(_parsed)], ...] = Field(default=({"name": "kd"},), validate_default=True)
    trains: Literal["all"] | tuple[str, ...] = "all"
    epochs: int = Field(default=200, ge=1)
    steps_per_epoch: int = Field(default=0, ge=0)
    batch: int = Field(default=256, ge=2)
    ood_share: float = Field(default=0.0, ge=0, lt=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float = Field(default=0.0, ge=0)
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "objective" not in value:
            return value
        if "objectives" in value:
            raise ValueError(
                "objective and objectives are both given: write objectives alone, and objectives.0.KEY for the first one's KEY"
            )
        return {**{key: item for key, item in value.items() if key != "objective"}, "objectives": [value["objective"]]}

    @field_validator("objectives")
    @classmethod
    def _some_objective(cls, objectives: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        if not objectives:
            raise ValueError("a stage needs at least one objective, such as {name: kd}")
        return objectives

    @field_validator("trains", mode="before")
    @classmethod
    def _paths(cls, trains: object) -> object:
        if trains == ALL:
            return trains
        paths = (trains,) if isinstance(trains, str) else trains
        if not isinstance(paths, list | tuple) or not paths or not all(isinstance(path, str) and path for path in paths):
            raise ValueError("give 'all', the path of a module, or a list of such paths")
        if ALL in paths:
            if len(paths) > 1:
                raise ValueError("'all' trains every module: leave the other paths out")
            return ALL
        for place, path in enumerate(paths):
            if above := next((other for number, other in enumerate(paths) if number != place and f"{path}.".startswith(f"{other}.")), ""):
                raise ValueError(f"{path!r} is trained with {above!r} already: leave it out")
        return tuple(paths)

    def sized(self, num_images: int) -> "StageConfig":
        """The stage with `steps_per_epoch` resolved for a set of `num_images`: at least one step."""
        if self.steps_per_epoch:
            return self
        return self.model_copy(update={"steps_per_epoch": max(num_images // self.batch, 1)})


class StudentConfig(Config):
    """A student: what it is built from and how it is trained.

    Attributes:
        architecture: a row of `models.catalog` or a foreign factory.
        stages: run in order.
        classes: how many it tells apart, or the name of each; 0 means the teacher's. Other ones only real images show, and only objectives
            that compare no answers fit them.
        keep_epochs: keep a snapshot of every n-th epoch for `evaluate`; 0 keeps none.
    """

    architecture: Architecture
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    classes: int | tuple[str, ...] = 0
    keep_epochs: int = Field(default=0, ge=0)

    @field_validator("stages")
    @classmethod
    def _some_stage(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        if not stages:
            raise ValueError("a student needs at least one stage")
        return stages

    @field_validator("classes")
    @classmethod
    def _two_classes(cls, classes: int | tuple[str, ...]) -> int | tuple[str, ...]:
        count = classes if isinstance(classes, int) else len(set(classes))
        if (isinstance(classes, int) and classes == 0) or (count >= 2 and (isinstance(classes, int) or count == len(classes))):
            return classes
        raise ValueError("give at least 2 classes, as a number or as a list of different names, or 0 for the teacher's")

    def class_names(self, teacher: tuple[str, ...]) -> tuple[str, ...]:
        """The student's classes: its own, "0", "1" and so on where they have no names, else the teacher's."""
        if isinstance(self.classes, tuple):
            return self.classes
        return tuple(map(str, range(self.classes))) or teacher

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a stage; fused on CUDA only, because on CPU the fused one trains channels-last weights silently wrong."""
    trained = list(parameters)
    fused = all(parameter.is_cuda for parameter in trained)
    if config.name == "adam":
        return torch.optim.Adam(trained, config.rate, betas=config.betas, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(
        trained, config.rate, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov, fused=fused
    )


def select_trained(student: Classifier, trains: Literal["all"] | tuple[str, ...]) -> list[nn.Parameter]:
    """Prepare a student for a stage: the chosen parts in train mode with gradients, the rest in eval mode without.

    Args:
        student: changed in place.
        trains: "all", or module paths of the classifier.

    Returns:
        The parameters to train, each once.

    Raises:
        ConfigError: no module at a path, or a module without parameters.
    """
    modules = dict(student.named_modules(remove_duplicate=False))
    paths = ("",) if trains == ALL else trains
    for path in paths:
        if path not in modules:
            raise ConfigError(f"trains = {path!r} names no module of the student: give 'all', or its paths; {near_paths(path, student)}.")
        if not any(True for _ in modules[path].parameters()):
            raise ConfigError(f"trains = {path!r} has no parameters: give 'all', or modules that have some.")
    student.eval().requires_grad_(False)
    for path in paths:
        modules[path].train().requires_grad_(True)
    return list(dict.fromkeys(parameter for path in paths for parameter in modules[path].parameters()))
