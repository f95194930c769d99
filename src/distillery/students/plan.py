"""A student's plan: a tuple of stages, each with an objective, the modules it trains and a schedule.

It runs over a synthetic set, a live synthesizer or a real data set, and does not know which.
"""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from distillery.config import Config
from distillery.data.augment import AugmentConfig
from distillery.errors import ConfigError
from distillery.models.catalog import Architecture
from distillery.optim.schedules import ScheduleConfig
from distillery.students.catalog import load_objective
from distillery.types import Batch, Classifier


class Objective(Protocol):
    """What a stage minimises; built as `Objective(config)` from its row of the catalog."""

    def terms(self, teacher: Classifier, student: Classifier, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms by name, 0-d, on the batch's device."""
        ...


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
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0)


class StageConfig(Config):
    """One stage of a student's training.

    Attributes:
        objective: mapping with the objective's `name` and its own settings.
        trains: "all", or the path of the module to train (`network.layer1`); the rest stays as it is, in eval mode.
        epochs: how often the schedule is stepped.
        steps_per_epoch: optimizer steps of one epoch; 0 means one pass over the set (not possible where the set still grows).
        batch: images a step.
        optimizer: a fresh one each stage.
        schedule: stepped once an epoch.
        augment: applied anew to each batch.
    """

    objective: dict[str, Any] = Field(default={"name": "kd"}, validate_default=True)
    trains: str = Field(default="all", min_length=1)
    epochs: int = Field(default=200, ge=1)
    steps_per_epoch: int = Field(default=0, ge=0)
    batch: int = Field(default=256, ge=2)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()

    @field_validator("objective")
    @classmethod
    def _parsed(cls, objective: dict[str, Any]) -> dict[str, Any]:
        # parsed here, so that a typo fails in the plan step and that equal settings hash equal
        config: Config = load_objective(str(objective.get("name", "")))[1].parse(objective, "objective")
        return config.to_json()

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
        keep_epochs: keep a snapshot of every n-th epoch for `evaluate`; 0 keeps none.
    """

    architecture: Architecture
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    keep_epochs: int = Field(default=0, ge=0)

    @field_validator("stages")
    @classmethod
    def _some_stage(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        if not stages:
            raise ValueError("a student needs at least one stage")
        return stages

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)


def build_objective(stage: StageConfig) -> Objective:
    """The objective of a stage, from the catalog."""
    cls, config = load_objective(str(stage.objective["name"]))
    objective: Objective = cls(config.parse(stage.objective, "objective"))
    return objective


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a stage; fused on CUDA only, because on CPU the fused one trains channels-last weights silently wrong."""
    trained = list(parameters)
    fused = all(parameter.is_cuda for parameter in trained)
    if config.name == "adam":
        return torch.optim.Adam(trained, config.rate, betas=config.betas, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(
        trained, config.rate, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov, fused=fused
    )


def select_trained(student: Classifier, trains: str) -> list[nn.Parameter]:
    """Prepare a student for a stage: the chosen part in train mode with gradients, the rest in eval mode without.

    Args:
        student: changed in place.
        trains: "all" or a module path of the classifier.

    Returns:
        The parameters to train.

    Raises:
        ConfigError: no module at that path, or a module without parameters.
    """
    modules = dict(student.named_modules())
    if trains != "all" and trains not in modules:
        raise ConfigError(f"trains = {trains!r} names no module of the student: give 'all' or a path such as {list(modules)[1]!r}.")
    part = student if trains == "all" else modules[trains]
    student.eval().requires_grad_(False)
    parameters = list(part.train().requires_grad_(True).parameters())
    if not parameters:
        raise ConfigError(f"trains = {trains!r} has no parameters: give 'all' or a module that has some.")
    return parameters
