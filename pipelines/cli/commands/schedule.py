"""`distillery schedule`: recurring runs on a cluster as one file says them."""

from pathlib import Path
from typing import Annotated

import typer

from distillery_kfp.pipelines.cli.cluster import HostOption, NamespaceOption, PackagesOption, ReleaseOption, open_api, release_of

_DONE = {"create": "created", "replace": "replaced", "enable": "enabled", "disable": "disabled", "leave": "as it was"}
_PLANNED = {"create": "would be created", "replace": "would be replaced", "enable": "would be enabled", "disable": "would be disabled"}


def schedule_runs(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="Owner, and schedules with name, pipeline, cron, no_catchup, parameters.")
    ],
    packages: PackagesOption,
    release: ReleaseOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would change.")] = False,
    host: HostOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Bring a cluster's recurring runs to what a file says: created, replaced where anything differs, or left as they are.

    Each is pinned to its package's version, which is uploaded where it is missing. Schedules of the same owner that stand in the file no
    more are disabled. May be repeated, and goes on where it was stopped.
    """
    from distillery_kfp.pipelines.registrar.package import read_packages
    from distillery_kfp.pipelines.registrar.reconciling import apply, compare
    from distillery_kfp.pipelines.registrar.schedules import read_schedules

    read, wanted = read_schedules(file, read_packages(packages), release_of(release))
    api = open_api(host, namespace)
    for change in (compare if dry_run else apply)(api, read.owner, wanted):
        typer.echo(f"{change.name}  {(_DONE | _PLANNED if dry_run else _DONE)[change.verb]}")
        for difference in change.differences:
            typer.echo(f"  {difference}")
