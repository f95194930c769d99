"""`distillery upload`: compiled pipelines as versions on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from distillery_kfp.pipelines.cli.cluster import HostOption, NamespaceOption, ReleaseOption, open_api, release_of


def upload_packages(
    packages: Annotated[list[Path], typer.Argument(metavar="PACKAGE...", help="Folders that `distillery compile --out` wrote, or files.")],
    release: ReleaseOption = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Register compiled pipelines with Kubeflow, each as a version named by pipeline, release and content.

    What is there already is left as it is: the command may be repeated, and given by several at once.
    """
    from distillery_kfp.pipelines.registrar.package import read_packages
    from distillery_kfp.pipelines.registrar.uploading import upload

    read, called = read_packages(packages), release_of(release)
    api = open_api(host, namespace)
    for package in read.values():
        done = upload(api, package, called)
        typer.echo(f"{done.name}  {'uploaded' if done.is_new else 'was there'}  {done.version}")
