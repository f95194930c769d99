"""What the commands that ask Kubeflow's API share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distillery_kfp.pipelines.registrar.api import KubeflowApi

HostOption = Annotated[
    str, typer.Option(metavar="URL", help="Address of Kubeflow  \\[default: KF_PIPELINES_ENDPOINT; in a pod its own service].")
]
NamespaceOption = Annotated[
    str, typer.Option(metavar="NAME", help="Yours, where several people share Kubeflow  \\[default: KF_PIPELINES_NAMESPACE].")
]
ReleaseOption = Annotated[str, typer.Option(metavar="VERSION", help="What versions are called after  \\[default: Distillery's version].")]
ExperimentOption = Annotated[str, typer.Option(metavar="NAME", help="Kubeflow's experiment that the runs belong to.")]
PackagesOption = Annotated[list[Path], typer.Option(help="Folder that `distillery compile --out` wrote, or a file of it; may be repeated.")]


def open_api(host: str, namespace: str) -> "KubeflowApi":
    """The API at an address; the token comes from the environment or a file, never from the command line."""
    from distillery_kfp.pipelines.registrar.access import find_access
    from distillery_kfp.pipelines.registrar.api import KubeflowApi
    from distillery_kfp.pipelines.registrar.client import Client

    return KubeflowApi(Client(find_access(host, namespace)))


def release_of(given: str) -> str:
    """The release that versions are called after."""
    from distillery_kfp.pipelines.registrar.package import check_release, own_release

    return check_release(given) if given else own_release()
