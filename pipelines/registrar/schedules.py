"""The file of schedules: what runs when, with which values, as it is read and checked before anything is asked of the server."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, StrictBool, field_validator

from distillery.config import Config, canonical_json, nearest
from distillery.errors import ConfigError
from distillery.plain_yaml import read_yaml_file
from distillery.provenance import sha256_bytes
from distillery.tracking.protocol import DEFAULT_EXPERIMENT
from distillery_kfp.pipelines.registrar.cron import check_cron
from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.parameters import check_parameters, refuse_macro, runtime_config, texts_of

PLUGINS: dict[str, dict[str, Any]] = {"mlflow": {"experiment_name": DEFAULT_EXPERIMENT}}
"""Sent where nothing else is said: MLflow's plugin, where Kubeflow has it, writes into the experiment that our steps write into."""
_MLFLOW = ("disabled", "experiment_id", "experiment_name")
_OWNER = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_SCHEDULE_NAME = r"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,78}[A-Za-z0-9])?$"
_MARK = re.compile(r"distillery schedule (?P<owner>\S+) sha256:(?P<sha256>[0-9a-f]{64})\Z")


class Schedule(Config):
    """One recurring run. At most one of its runs works at a time, always.

    Attributes:
        name: on the server, and the schedule's identity.
        pipeline: the name of a package's pipeline.
        cron: six fields, in the time zone of Kubeflow's controller, which is UTC unless its installation says otherwise.
        no_catchup: whether what was missed while Kubeflow was down is left out; without it each missed run follows at once.
        enabled: whether it runs.
        parameters: values of the run form.
        service_account: of the runs' pods; "" is the namespace's own.
        pipeline_root: where Kubeflow keeps artifacts; "" is the namespace's own.
        plugins_input: for Kubeflow's plugins; never empty, because without it scheduled runs bypass them.
    """

    name: str = Field(pattern=_SCHEDULE_NAME)
    pipeline: str
    cron: str
    no_catchup: StrictBool
    enabled: StrictBool = True
    parameters: dict[str, Any] = Field(default_factory=dict)
    service_account: str = ""
    pipeline_root: str = ""
    plugins_input: dict[str, dict[str, Any]] = Field(default_factory=lambda: {name: dict(said) for name, said in PLUGINS.items()})

    @field_validator("plugins_input")
    @classmethod
    def _check_plugins(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return check_plugins(value)


class ScheduleFile(Config):
    """A file of schedules.

    Attributes:
        owner: whose schedules these are; those of the same owner that stand in no file any more are disabled, all others left alone.
        experiment: that the runs belong to.
        schedules: each with a name of its own.
    """

    owner: str
    experiment: str = Field(default=DEFAULT_EXPERIMENT, pattern=_SCHEDULE_NAME)
    schedules: tuple[Schedule, ...]

    @field_validator("owner")
    @classmethod
    def _check_owner(cls, value: str) -> str:
        if not _OWNER.fullmatch(value):
            raise ValueError("give up to 63 small letters, digits, dots and hyphens")
        return value

    @field_validator("schedules")
    @classmethod
    def _check_names(cls, value: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        names = [schedule.name for schedule in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are called {twice[0]!r}: give each a name of its own")
        return value


@dataclass(frozen=True)
class Wanted:
    """A schedule as the server should have it.

    Attributes:
        owner: of the file.
        experiment: that its runs belong to.
        schedule: as it stands in the file.
        package: that its runs are of.
        release: that the package's version is called after.
        parameters: checked against the package.
    """

    owner: str
    experiment: str
    schedule: Schedule
    package: PipelinePackage
    release: str
    parameters: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The name of the version that it is pinned to."""
        return self.package.version(self.release)

    @property
    def sha256(self) -> str:
        """Names everything that makes it another schedule; whether it is enabled does not."""
        said = self.schedule.to_json()
        del said["enabled"]
        said |= {"parameters": dict(self.parameters), "version": self.version, "experiment": self.experiment}
        return sha256_bytes(canonical_json(said).encode())

    @property
    def description(self) -> str:
        """What people read of it, and by which it is known again."""
        return f"{self.package.description} {self.mark}".strip()

    @property
    def mark(self) -> str:
        """The end of its description."""
        return f"distillery schedule {self.owner} sha256:{self.sha256}"

    def body(self, pipeline: str, version: str, experiment: str) -> dict[str, Any]:
        """The recurring run to make, disabled.

        Args:
            pipeline: id of the pipeline.
            version: id of the version.
            experiment: id of the experiment.
        """
        body = {
            "display_name": self.schedule.name,
            "description": self.description,
            "experiment_id": experiment,
            "pipeline_version_reference": {"pipeline_id": pipeline, "pipeline_version_id": version},
            "runtime_config": runtime_config(self.parameters, self.schedule.pipeline_root),
            "trigger": {"cron_schedule": {"cron": self.schedule.cron}},
            "max_concurrency": "1",
            "no_catchup": self.schedule.no_catchup,
            "mode": "DISABLE",
            "plugins_input": self.schedule.plugins_input,
        }
        return {**body, **({"service_account": self.schedule.service_account} if self.schedule.service_account else {})}


def mark_of(description: str) -> tuple[str, str]:
    """Owner and hash of a recurring run that we made; both "" of others."""
    found = _MARK.search(description)
    return (found["owner"], found["sha256"]) if found else ("", "")


def read_schedules(path: Path, packages: Mapping[str, PipelinePackage], release: str) -> tuple[ScheduleFile, list[Wanted]]:
    """A file of schedules, each checked against its package.

    Args:
        path: the file.
        packages: by the names of their pipelines.
        release: that versions are called after.

    Raises:
        MissingResourceError: there is no such file.
        ConfigError: no YAML, or anything in it that is not allowed.
    """
    wrong = f"{str(path)!r} is no YAML: write owner, and schedules with name, pipeline, cron and no_catchup."
    file = ScheduleFile.parse(read_yaml_file(path, f"The schedules {str(path)!r}", "give a YAML file", wrong), path.name)
    return file, [_check(file, number, schedule, packages, release) for number, schedule in enumerate(file.schedules)]


def check_plugins(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is said to Kubeflow's plugins, if it can be.

    Raises:
        ValueError: nothing is said, or what MLflow's plugin refuses.
    """
    if not value:
        raise ValueError(
            "it must not be empty, because scheduled runs bypass the plugins without it: leave it out, or disable a plugin by name"
        )
    for name in value.get("mlflow", {}):
        if name not in _MLFLOW:
            raise ValueError(f"mlflow has no {name!r}; it has {', '.join(_MLFLOW)}{nearest(name, list(_MLFLOW)) or ''}")
    return value


def _check(file: ScheduleFile, number: int, schedule: Schedule, packages: Mapping[str, PipelinePackage], release: str) -> Wanted:
    where = f"schedules.{number}"
    package = packages.get(schedule.pipeline)
    if package is None:
        known: Sequence[str] = sorted(packages)
        raise ConfigError(
            f"{where}.pipeline = {schedule.pipeline!r} is in none of the packages, which have {', '.join(known)}"
            f"{nearest(schedule.pipeline, list(known)) or '.'}"
        )
    parameters = check_parameters(package, schedule.parameters, f"{where}.parameters", scheduled=True)
    for name in ("pipeline_root", "service_account", "plugins_input"):
        for text in texts_of(getattr(schedule, name)):
            refuse_macro(f"{where}.{name}", text)
    tidy = schedule.model_copy(update={"cron": check_cron(schedule.cron, f"{where}.cron")})
    return Wanted(file.owner, file.experiment, tidy, package, release, parameters)
