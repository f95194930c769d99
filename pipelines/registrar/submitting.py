"""Runs of a package: begun once, and begun again with the values of one that ended badly."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from distillery.errors import ConfigError, MissingResourceError
from distillery.plain_yaml import read_yaml_file
from distillery_kfp.pipelines.registrar.api import OVER, Document, KubeflowApi
from distillery_kfp.pipelines.registrar.package import PipelinePackage
from distillery_kfp.pipelines.registrar.parameters import check_parameters, runtime_config
from distillery_kfp.pipelines.registrar.schedules import PLUGINS
from distillery_kfp.pipelines.registrar.uploading import open_experiment, upload

_LOOKED_AT = 500
"""Newest runs among which one is looked for that may have been begun."""


@dataclass(frozen=True)
class Submission:
    """A run to begin.

    Attributes:
        name: on Kubeflow's pages.
        experiment: that it belongs to.
        parameters: of the run form.
        service_account: of its pods; "" is the namespace's own.
        pipeline_root: where Kubeflow keeps artifacts; "" is the namespace's own.
    """

    name: str
    experiment: str
    parameters: Mapping[str, Any]
    service_account: str = ""
    pipeline_root: str = ""

    def check(self, package: PipelinePackage) -> dict[str, Any]:
        """The values as they are sent; raises as `check_parameters` does."""
        return check_parameters(package, self.parameters, "params")


def read_params(path: Path) -> dict[str, Any]:
    """Values of a run form from a YAML file.

    Raises:
        MissingResourceError: there is no such file.
        ConfigError: it is no YAML, or no mapping.
    """
    wrong = f"{str(path)!r} holds no values: write a name of the run form and its value a line, such as run_seed: 1."
    found = read_yaml_file(path, f"The values {str(path)!r}", "give a YAML file", wrong)
    if not isinstance(found, dict):
        raise ConfigError(wrong)
    return found


def submit(api: KubeflowApi, package: PipelinePackage, release: str, wanted: Submission) -> Document:
    """Begin a run, pinned to the package's version, which is uploaded where it is missing.

    Args:
        api: of the server.
        package: to run.
        release: that its version is called after.
        wanted: the run.

    Raises:
        DistilleryError: a value that is not allowed, before anything is asked; or the server refuses, or does not do its work.
    """
    parameters = wanted.check(package)
    there = upload(api, package, release)
    body = {
        "display_name": wanted.name,
        "description": package.description,
        "experiment_id": open_experiment(api, wanted.experiment),
        "pipeline_version_reference": {"pipeline_id": there.pipeline, "pipeline_version_id": there.version},
        "runtime_config": runtime_config(parameters, wanted.pipeline_root),
        "plugins_input": PLUGINS,
        **({"service_account": wanted.service_account} if wanted.service_account else {}),
    }
    return _begin(api, body)


def submit_again(api: KubeflowApi, run: str, package: PipelinePackage | None = None, release: str = "") -> Document:
    """Begin a run with the values of one that failed or was stopped: its steps take up what the other has finished.

    Args:
        api: of the server.
        run: id of the other.
        package: to run it by, such as one whose fault is mended; None takes the other's version.
        release: that the package's version is called after.

    Raises:
        MissingResourceError: there is no such run, or its version is gone.
        ConfigError: it still works, or succeeded; or the package does not take its values.
        DistilleryError: the server refuses, or does not do its work.
    """
    before = api.run(run)
    if before is None:
        raise MissingResourceError(
            f"Kubeflow has no run {run!r}: give the id that `distillery submit` printed or its page's address ends with."
        )
    state = str(before.get("state", ""))
    if state not in OVER:
        raise ConfigError(f"Run {run} still works, it is {state or 'in no state yet'}: terminate it in Kubeflow first, or wait for it.")
    if state == "SUCCEEDED":
        raise ConfigError(f"Run {run} succeeded, so nothing is left to do: submit it with another run_salt to do the work anew.")
    runtime = before.get("runtime_config") or {}
    parameters = dict(runtime.get("parameters") or {})
    reference = before.get("pipeline_version_reference") or {}
    if package is not None:
        parameters = check_parameters(package, parameters, f"run {run}")
        there = upload(api, package, release)
        reference = {"pipeline_id": there.pipeline, "pipeline_version_id": there.version}
    elif not api.version(str(reference.get("pipeline_id", "")), str(reference.get("pipeline_version_id", ""))):
        raise MissingResourceError(f"The version that run {run} was of is gone: give a package of the pipeline as well.")
    kept = {name: before[name] for name in ("experiment_id", "service_account") if before.get(name)}
    body = {
        "display_name": f"{str(before.get('display_name', run)).removesuffix(' again')} again",
        "description": f"Goes on with run {run}.",
        "pipeline_version_reference": {name: reference[name] for name in ("pipeline_id", "pipeline_version_id")},
        "runtime_config": runtime_config(parameters, str(runtime.get("pipeline_root", ""))),
        "plugins_input": before.get("plugins_input") or PLUGINS,
        **kept,
    }
    return _begin(api, body)


def _begin(api: KubeflowApi, body: Mapping[str, Any]) -> Document:
    """Begin one run, and never two: where it is not known whether it was begun, it is looked for by a mark before it is tried again."""
    mark = f"distillery submit {uuid4().hex}"
    marked = {**body, "description": f"{body['description']} {mark}".strip()}
    for pause in (*api.client.pauses, 0.0):
        if made := api.create_run(marked):
            return made
        time.sleep(pause)
        newest = islice(api.runs(str(body.get("experiment_id", ""))), _LOOKED_AT)
        if found := next((run for run in newest if str(run.get("description", "")).endswith(mark)), None):
            return found
    raise api.client.unanswered("it begins no run")
