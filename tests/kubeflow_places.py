"""What tests of the registrar work with: packages, an API without waiting, and names of their own on a server that others use too."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillery_kfp.pipelines.registrar.access import Access
from distillery_kfp.pipelines.registrar.api import KubeflowApi
from distillery_kfp.pipelines.registrar.client import Client
from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.parameters import check_parameters
from distillery_kfp.pipelines.registrar.schedules import Schedule, Wanted
from kubeflow_api import FakeKubeflow

HOST = "registry.example.net/"
SMALL = f"""# a package as `distillery compile` writes them, of one task and a field of each type
pipelineInfo: {{name: learn-weekly, description: Learn from what is there.}}
components: {{comp-learn: {{executorLabel: exec-learn}}}}
deploymentSpec:
  executors:
    exec-learn:
      container: {{image: "{HOST}team/runtime:1.0.0", command: [python3]}}
root:
  dag: {{tasks: {{learn: {{componentRef: {{name: comp-learn}}}}}}}}
  inputDefinitions:
    parameters:
      source_uri: {{parameterType: STRING, description: Where it lies.}}
      seed: {{parameterType: NUMBER_INTEGER, defaultValue: 0.0, isOptional: true}}
      rate: {{parameterType: NUMBER_DOUBLE, defaultValue: 0.1, isOptional: true}}
      fast: {{parameterType: BOOLEAN, defaultValue: false, isOptional: true}}
      overrides: {{parameterType: STRUCT, defaultValue: {{}}, isOptional: true}}
      tolerations: {{parameterType: LIST, defaultValue: [], isOptional: true}}
      salt: {{parameterType: STRING, defaultValue: "", isOptional: true}}
      method: {{parameterType: STRING, defaultValue: "", isOptional: true, literals: ["", kd, fsp-kd]}}
schemaVersion: 2.1.0
sdkVersion: kfp-2.17.0
---
platforms: {{kubernetes: {{deploymentSpec: {{executors: {{exec-learn: {{}}}}}}}}}}
"""
PARAMETERS = {"source_uri": "s3://models/set"}
WEEKLY = {"name": "weekly", "pipeline": "learn-weekly", "cron": "0 0 3 * * 1", "no_catchup": True, "parameters": PARAMETERS}
"""A schedule as it stands in a file."""


def packed(folder: Path, name: str = "learn-weekly", old: str = "", new: str = "") -> Path:
    """A package in a folder, of another content where `old` becomes `new`."""
    text = SMALL.replace("learn-weekly", name)
    assert old in text
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text.replace(old, new) if old else text)
    return path


@dataclass
class Place:
    """Where a test works: things of one test are called by its suffix, and taken away afterwards."""

    api: KubeflowApi
    suffix: str = field(default_factory=lambda: secrets.token_hex(4))

    def named(self, package: PipelinePackage) -> PipelinePackage:
        """The package as a pipeline of this test alone."""
        return replace(package, name=f"{package.name}-{self.suffix}")


def asked(
    fake: FakeKubeflow, token: Callable[[], str] = lambda: "", namespace: str = "", pauses: tuple[float, ...] = (0, 0)
) -> KubeflowApi:
    """The API of a server in memory, without waiting."""
    return KubeflowApi(Client(Access("http://kubeflow", token=token, namespace=namespace), fake.send, pauses))


def scheduled(package: PipelinePackage, name: str = "weekly", owner: str = "team", release: str = "1.4.0", **said: Any) -> Wanted:
    """A schedule of a small package, as the server should have it."""
    given = PARAMETERS | said.pop("parameters", {})
    schedule = Schedule.parse({**WEEKLY, "name": name, "pipeline": package.name, "parameters": given, **said})
    return Wanted(owner, "distillery", schedule, package, release, check_parameters(package, given, "parameters", scheduled=True))
