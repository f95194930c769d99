"""What a step may tell an observer, and how it opens one: MLflow where a tracking URI is set, JSON files otherwise."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from distillery.config import Config

Status = Literal["FINISHED", "FAILED", "KILLED"]
PREFIX = "distillery/"  # keeps our parameters and tags apart from those that the KFP plugin writes into the same run
DEFAULT_EXPERIMENT = "distillery"
SERVED_FILE = "data/model/model.pt2"  # among the files of a version
REGISTRY_NAME = r"^[A-Za-z0-9_.-]+$"


class RegistrationConfig(Config):
    """How a student enters the model registry.

    Attributes:
        metric: the number of the evaluation report that the gate compares, higher is better; `agreement` takes its place where
            the report lacks it, as it does without a test set.
        champion: when the new version takes the alias `champion` from the standing one; every version takes `challenger`.
    """

    model_name: str = Field(default="distillery-student", pattern=REGISTRY_NAME)
    metric: Literal["student/top1", "student/top5", "agreement"] = "student/top1"
    champion: Literal["if_better", "never", "always"] = "if_better"


class Candidate(Config):
    """A student that asks to be registered.

    Attributes:
        metric: name of its number.
        value: its number.
        source: what it was measured on; numbers from two sources are never compared.
        tags: what leads an auditor back to its inputs, `student_sha256` among them.
        description: a line for the registry's page.
    """

    metric: str
    value: float
    source: str = ""
    tags: dict[str, str] = {}
    description: str = ""


class Registered(Config):
    """What the registry answered; `model_version` is empty where nothing was registered."""

    model_name: str
    model_version: str = ""
    aliases: tuple[str, ...] = ()
    metric: str
    value: float
    previous_champion: str = ""
    reason: str


@dataclass(frozen=True)
class ServedModel:
    """A student as a file that is served without Distillery.

    Attributes:
        model: a pt2 file that takes float32 images (N, C, H, W) in [0, 1], for any N, and gives float32 logits (N, K).
        example: images (n, C, H, W), a float32 array.
        num_classes: K.
        requirements: what a server has to install to run it, as lines for pip.
        tags: what is said of the file, such as how far its logits are from the bundle's.
    """

    model: Path
    example: Any
    num_classes: int
    requirements: tuple[str, ...]
    tags: Mapping[str, str]


Serve = Callable[[Path], ServedModel | None]
"""Writes the file to serve into an empty folder; None where the student cannot be served so. Asked only where a version is new."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the model.
        number: of the version.
        aliases: that it holds now.
        tags: by their names without our prefix.
        run_id: the MLflow run that registered it.
        registry: the registry's address, without user and password.
    """

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    registry: str


class Tracker(Protocol):
    """An observer of one step.

    No method but `register` raises or stalls because the observer is down. Parameters and tags may be nested mappings: they
    are flattened with dots and prefixed with `distillery/`.
    """

    @property
    def run_id(self) -> str:
        """The observer's id of this step's run, empty where it has none."""
        ...

    @property
    def parent_id(self) -> str:
        """The id of the pipeline's run, empty where there is none."""
        ...

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the configuration; a value given twice must be the same."""
        ...

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at an epoch or round; one that is not finite is recorded as the observer can."""
        ...

    def catch_up(self, rounds: Sequence[Mapping[str, float]]) -> None:
        """Record those numbers of a resumed step's rounds that the observer does not have.

        Args:
            rounds: the numbers of each finished round, the first of them that of step 1.
        """
        ...

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record hashes and addresses; a later value replaces the earlier."""
        ...

    def text(self, name: str, content: str) -> None:
        """Record a text file called `name` (a relative path)."""
        ...

    def json(self, name: str, value: Any) -> None:
        """Record a JSON file called `name` (a relative path)."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or everything in a folder, below `folder`."""
        ...

    def image(self, name: str, png: bytes) -> None:
        """Record the bytes of a PNG called `name` (a relative path), such as a grid of synthetic images."""
        ...

    def dataset(self, name: str, uri: str, digest: str, context: str) -> None:
        """Record a data set that the step read or wrote, as one of its inputs.

        Args:
            name: what it is, in words.
            uri: where it lies: a path, s3:// or http://.
            digest: its sha256.
            context: what for: training, evaluation, synthesis.
        """
        ...

    def register(self, bundle: Path, config: RegistrationConfig, candidate: Candidate, serve: Serve | None = None) -> Registered:
        """Register a student's bundle folder as a model version.

        Args:
            bundle: its files are kept below `bundle/` of the model.
            config: the model's name and the gate.
            candidate: the student's number, and tags among which `student_sha256`.
            serve: makes the file that `mlflow.pyfunc.load_model` loads; None keeps the bundle only.

        Raises:
            StoreError: an observer is configured and did not take the version.
        """
        ...

    def close(self, status: Status = "FINISHED") -> None:
        """End the run; `open_tracker` calls it."""
        ...


def tracking_uri() -> str:
    """Where the environment says that MLflow is, empty where it says nothing."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip()
