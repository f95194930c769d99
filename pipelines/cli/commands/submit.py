"""`distillery submit`: a run of a package on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from distillery_kfp.pipelines.cli.cluster import ExperimentOption, HostOption, NamespaceOption, ReleaseOption, open_api, release_of


def submit_run(
    package: Annotated[
        Path | None, typer.Argument(metavar="PACKAGE.yaml", help="A file of `distillery compile`; not needed with --again.")
    ] = None,
    params: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Values of the run form, by name.")] = None,
    again: Annotated[
        str, typer.Option(metavar="RUN", help="Id of a run that failed or was stopped: one with equal values goes on from its checkpoints.")
    ] = "",
    name: Annotated[str, typer.Option(help="Of the run, on Kubeflow's pages  \\[default: that of the package's version].")] = "",
    experiment: ExperimentOption = "distillery",
    service_account: Annotated[str, typer.Option(help="Of the run's pods  \\[default: the namespace's own].")] = "",
    pipeline_root: Annotated[
        str, typer.Option(metavar="URI", help="Where Kubeflow keeps artifacts  \\[default: the namespace's own].")
    ] = "",
    release: ReleaseOption = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Begin a run on a cluster, pinned to the version of its package, which is uploaded where it is missing."""
    from distillery.errors import ConfigError
    from distillery_kfp.pipelines.registrar.package import read_package
    from distillery_kfp.pipelines.registrar.submitting import Submission, read_params, submit, submit_again

    if again:
        if params or name or service_account or pipeline_root:
            raise ConfigError("--again takes all values from the run that it names: leave --params and the options of a run out.")
        whole = read_package(package) if package else None
        called = release_of(release)
        api = open_api(host, namespace)
        run = submit_again(api, again, whole, called)
    else:
        if package is None:
            raise ConfigError("Nothing says what to run: give a PACKAGE.yaml, or --again RUN.")
        whole, called = read_package(package), release_of(release)
        values = read_params(params) if params else {}
        wanted = Submission(name or whole.version(called), experiment, values, service_account, pipeline_root)
        wanted.check(whole)
        api = open_api(host, namespace)
        run = submit(api, whole, called, wanted)
    typer.echo(f"run   {run['run_id']}\npage  {api.client.access.page_of(str(run['run_id']))}")
