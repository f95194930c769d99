"""`distillery pods`: what a run would ask a cluster for, before it is submitted."""

from pathlib import Path
from typing import Annotated

import typer


def show_pods(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A file that `distillery compile` wrote.")],
    params: Annotated[Path, typer.Option(metavar="FILE", help="Values of the run form, as YAML or JSON.")],
) -> None:
    """Show the pod of each task as YAML, as Kubeflow's driver would ask for it."""
    from distillery.errors import ConfigError
    from distillery.plain_yaml import read_yaml_file, write_yaml
    from distillery_kfp.pipelines.pods import read_package, render_pods

    what = f"--params {str(params)!r}"
    wrong = f"{what} is no mapping: write the run form's values by name, such as run_profile: nvidia."
    given = read_yaml_file(params, what, "give a file with values by name", wrong)
    if not isinstance(given, dict):
        raise ConfigError(wrong)
    for pod in render_pods(read_package(package), given):
        typer.echo(f"---\n{write_yaml(pod, width=140)}", nl=False)
