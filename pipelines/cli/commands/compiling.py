"""`distillery compile`: the pipelines as files for a cluster, with the images of whoever runs it."""

from pathlib import Path
from typing import Annotated

import typer


def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    registry: Annotated[str, typer.Option(metavar="HOST/PREFIX", help="Where the images lie under their own names.")] = "",
    images: Annotated[
        str, typer.Option(metavar="FILE", help="YAML with your own image for a row of images.yaml: gpu: HOST/NAME:1.0.0.")
    ] = "",
    pull_secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Secret that images are pulled by; may be repeated.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE.yaml", help="Profile of your nodes that the run form opens with; a further one is offered too."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option(metavar="NAME", help="ConfigMap that the run form offers; may be repeated.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Refuse an image without a digest.")] = False,
    credentials: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Secret that the run form offers; may be repeated.")] = None,
) -> None:
    """Compile the pipelines to YAML for a Kubeflow cluster."""
    from distillery.extras import need

    need("kubeflow", "Compiling a pipeline")
    from distillery_kfp.pipelines.compile import compile_all
    from distillery_kfp.pipelines.deployment import PLACEHOLDER_HOST, choose_deployment

    names = {"pull_secrets": pull_secret or (), "settings": settings or (), "credentials": credentials or ()}
    deployment = choose_deployment(registry, images, profile or (), **names)
    if release:
        deployment.check_release()
    for path in compile_all(out, deployment):
        typer.echo(path)
    if deployment.is_placeholder:
        typer.echo(f"The images are at {PLACEHOLDER_HOST}, which is nobody's: give --registry or --images for a cluster.", err=True)
