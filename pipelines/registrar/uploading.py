"""Packages as versions of pipelines, and experiments: made once, and found again ever after."""

from dataclasses import dataclass

from distillery.errors import MissingResourceError
from distillery_kfp.pipelines.registrar.api import KubeflowApi
from distillery_kfp.pipelines.registrar.package import PipelinePackage


@dataclass(frozen=True)
class RegisteredVersion:
    """A package on the server.

    Attributes:
        pipeline: id of its pipeline.
        version: id of its version.
        name: of the version.
        is_new: whether it was uploaded just now.
    """

    pipeline: str
    version: str
    name: str
    is_new: bool = False


def find_version(api: KubeflowApi, package: PipelinePackage, release: str) -> RegisteredVersion | None:
    """The package's version on the server, None where it is not there."""
    pipeline = api.pipeline(package.name)
    return _find(api, str(pipeline["pipeline_id"]), package.version(release)) if pipeline else None


def upload(api: KubeflowApi, package: PipelinePackage, release: str) -> RegisteredVersion:
    """Upload a package, unless it is there; may be repeated, and done by several at once.

    Args:
        api: of the server.
        package: to upload.
        release: that its version is called after.

    Raises:
        DistilleryError: the server refuses, or does not do its work.
    """
    pipeline = api.pipeline(package.name) or api.create_pipeline(package.name, package.description) or api.pipeline(package.name)
    if pipeline is None:  # made and deleted between the calls
        raise MissingResourceError(f"The pipeline {package.name!r} is deleted as soon as it is made: see who else works there.")
    identity, name = str(pipeline["pipeline_id"]), package.version(release)
    if found := _find(api, identity, name):
        return found
    made = api.upload_version(identity, name, package.data, describe_version(package))
    if made is not None:
        return RegisteredVersion(identity, str(made["pipeline_version_id"]), name, is_new=True)
    if found := _find(api, identity, name):  # somebody else was first, or our own upload was carried out while the server failed
        return found
    raise MissingResourceError(f"The version {name!r} is refused as one that is there, but is not listed: look at Kubeflow's log.")


def open_experiment(api: KubeflowApi, name: str) -> str:
    """The id of an experiment, made where it is not there; several may ask at once.

    Raises:
        DistilleryError: the server refuses, or does not do its work.
    """
    found = api.experiment(name) or api.create_experiment(name) or api.experiment(name)
    if found is None:
        raise MissingResourceError(f"The experiment {name!r} is refused as one that is there, but is not listed: is it archived?")
    return str(found["experiment_id"])


def describe_version(package: PipelinePackage) -> str:
    """What people read of a version; an audit compares the hash."""
    return f"{package.description} IR sha256 {package.sha256}".strip()


def _find(api: KubeflowApi, pipeline: str, name: str) -> RegisteredVersion | None:
    found = next((version for version in api.versions(pipeline) if version.get("name", version.get("display_name")) == name), None)
    return RegisteredVersion(pipeline, str(found["pipeline_version_id"]), name) if found else None
