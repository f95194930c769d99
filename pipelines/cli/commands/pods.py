"""`distillery pods`: what a run would ask a cluster for, before it is submitted."""

from pathlib import Path
from typing import Annotated

import typer


def show_pods(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A file that `distillery compile` wrote.")],
    params: Annotated[Path, typer.Option(metavar="FILE", help="Values of the run form, as YAML or JSON.")],
) -> None:
    """Show the pod of each task as YAML, as Kubeflow's driver would ask for it."""
    import yaml

    from distillery.errors import ConfigError, MissingResourceError
    from distillery.plain_yaml import read_yaml, write_yaml
    from distillery_kfp.pipelines.pods import read_package, render_pods

    try:
        given = read_yaml(params.read_bytes())
    except OSError as error:
        raise MissingResourceError(
            f"--params {str(params)!r} cannot be read ({error.strerror}): give a file with values by name."
        ) from None
    except yaml.YAMLError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(f"--params {str(params)!r} is no mapping: write the run form's values by name, such as run_profile: nvidia.")
    for pod in render_pods(read_package(package), given):
        typer.echo(f"---\n{write_yaml(pod, width=140)}", nl=False)
