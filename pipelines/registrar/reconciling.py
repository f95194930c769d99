"""Schedules on the server as the file says them, whoever else works there and wherever it was stopped before.

Kubeflow cannot change a recurring run: a new one takes the old one's place. It is made disabled, then the old one is deleted, then it is
enabled, so that at no moment two of them begin runs. Of several that are right, as two registrars at once make them, the one that was made
first stays; everybody who looks comes to the same one, and nobody is done before a listing shows it alone and as it should be.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distillery.errors import ConfigError, StoreError
from distillery_kfp.pipelines.registrar.api import Document, KubeflowApi
from distillery_kfp.pipelines.registrar.schedules import Wanted, mark_of
from distillery_kfp.pipelines.registrar.uploading import RegisteredVersion, find_version, open_experiment, upload

ROUNDS = 8
"""Listings after which a schedule that will not come to rest is given up: somebody else changes it all the time."""
Verb = Literal["create", "replace", "enable", "disable", "leave"]


@dataclass(frozen=True)
class Change:
    """What happens, or would, to one schedule.

    Attributes:
        name: of the schedule.
        verb: what happens.
        differences: a line for each value that becomes another.
    """

    name: str
    verb: Verb
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """The ids that a schedule needs; "" where a dry run found nothing."""

    version: RegisteredVersion | None
    experiment: str


def compare(api: KubeflowApi, owner: str, wanted: Sequence[Wanted]) -> list[Change]:
    """What `apply` would do; changes nothing.

    Args:
        api: of the server.
        owner: of the file.
        wanted: its schedules.

    Raises:
        DistilleryError: the server refuses, or a recurring run of the name is somebody else's.
    """
    there = list(api.recurring_runs())
    changes = [_compare(api, there, item) for item in wanted]
    return [*changes, *(Change(str(run["display_name"]), "disable") for run in _left_over(there, owner, wanted))]


def apply(api: KubeflowApi, owner: str, wanted: Sequence[Wanted]) -> list[Change]:
    """Bring the server to what the file says; may be repeated, and done by several at once.

    Args:
        api: of the server.
        owner: of the file.
        wanted: its schedules, checked; versions that they need are uploaded.

    Returns:
        What changed, as it was seen before the change.

    Raises:
        DistilleryError: the server refuses or fails, a name is somebody else's, or another registrar keeps changing things.
    """
    packages = {item.package.name: item for item in wanted}  # several schedules may be of one
    versions = {name: upload(api, item.package, item.release) for name, item in packages.items()}
    changes = compare(api, owner, wanted)
    for item in wanted:
        _settle(api, item, _Place(versions[item.package.name], open_experiment(api, item.experiment)))
    for run in _left_over(list(api.recurring_runs()), owner, wanted):
        api.switch_recurring_run(str(run["recurring_run_id"]), enabled=False)
    return changes


def _settle(api: KubeflowApi, wanted: Wanted, place: _Place) -> None:
    pauses = iter(api.client.pauses)
    for _ in range(ROUNDS):
        named = _named(list(api.recurring_runs()), wanted)
        right = sorted((run for run in named if _is_right(run, wanted, place)), key=_age)
        if not right:
            _create(api, wanted, place, next(pauses, 0.0))
            continue
        stays, others = right[0], [run for run in named if run is not right[0]]
        for run in others:
            api.delete_recurring_run(str(run["recurring_run_id"]))
        switched = _is_enabled(stays) != wanted.schedule.enabled
        if switched:
            api.switch_recurring_run(str(stays["recurring_run_id"]), wanted.schedule.enabled)
        if not others and not switched:
            return
    raise StoreError(f"The schedule {wanted.schedule.name!r} is changed by somebody else all the time: let one registrar work at a time.")


def _create(api: KubeflowApi, wanted: Wanted, place: _Place, pause: float) -> None:
    assert place.version is not None
    if api.create_recurring_run(wanted.body(place.version.pipeline, place.version.version, place.experiment)) is None:
        time.sleep(pause)  # the next listing shows whether it was made


def _compare(api: KubeflowApi, there: Sequence[Document], wanted: Wanted) -> Change:
    name = wanted.schedule.name
    place = _Place(
        find_version(api, wanted.package, wanted.release), str((api.experiment(wanted.experiment) or {}).get("experiment_id", ""))
    )
    named = _named(there, wanted)
    right = sorted((run for run in named if _is_right(run, wanted, place)), key=_age)
    if not named:
        return Change(name, "create")
    if not right or len(named) > 1:
        before = right[0] if right else max(named, key=_age)
        return Change(name, "replace", tuple(_differences(api, before, wanted, place)))
    if _is_enabled(right[0]) != wanted.schedule.enabled:
        return Change(name, "enable" if wanted.schedule.enabled else "disable")
    return Change(name, "leave")


def _differences(api: KubeflowApi, before: Document, wanted: Wanted, place: _Place) -> Iterator[str]:
    old, new = _told(before), _told(wanted.body("", "", place.experiment))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name}: {_spoken(old, name)} -> {_spoken(new, name)}"
    reference = before.get("pipeline_version_reference") or {}
    ids = str(reference.get("pipeline_id", "")), str(reference.get("pipeline_version_id", ""))
    if place.version is None or ids != (place.version.pipeline, place.version.version):
        found = api.version(*ids) if all(ids) else None
        yield f"version: {(found or {}).get('display_name') or 'one that is gone'} -> {wanted.version}"


def _told(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a recurring run says, by the names of the file."""
    runtime = run.get("runtime_config") or {}
    return {
        "cron": ((run.get("trigger") or {}).get("cron_schedule") or {}).get("cron", ""),
        "no_catchup": bool(run.get("no_catchup", False)),
        "service_account": run.get("service_account", ""),
        "pipeline_root": runtime.get("pipeline_root", ""),
        "experiment": run.get("experiment_id", ""),
        **{f"parameters.{name}": value for name, value in (runtime.get("parameters") or {}).items()},
        **{f"plugins_input.{name}": value for name, value in (run.get("plugins_input") or {}).items()},
    }


def _spoken(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def _is_right(run: Document, wanted: Wanted, place: _Place) -> bool:
    """Whether a recurring run is the wanted one: by the mark that it was made with, and by what it is bound to on this server."""
    reference = run.get("pipeline_version_reference") or {}
    bound = str(reference.get("pipeline_id", "")), str(reference.get("pipeline_version_id", "")), str(run.get("experiment_id", ""))
    told = _told(run)
    return (
        place.version is not None
        and mark_of(str(run.get("description", ""))) == (wanted.owner, wanted.sha256)
        and bound == (place.version.pipeline, place.version.version, place.experiment)
        and told["cron"] == wanted.schedule.cron
        and told["no_catchup"] == wanted.schedule.no_catchup
    )


def _named(there: Sequence[Document], wanted: Wanted) -> list[Document]:
    """The recurring runs that are this schedule.

    Raises:
        ConfigError: one of the name was made by hand, and would begin runs beside it.
    """
    called = [run for run in there if run.get("display_name") == wanted.schedule.name]
    if any(not mark_of(str(run.get("description", "")))[0] for run in called):
        raise ConfigError(
            f"There is a recurring run {wanted.schedule.name!r} that no registrar made: delete it, or give the schedule another name."
        )
    return [run for run in called if mark_of(str(run["description"]))[0] == wanted.owner]


def _left_over(there: Sequence[Document], owner: str, wanted: Sequence[Wanted]) -> list[Document]:
    """Enabled ones of the owner that stand in the file no more."""
    names = {item.schedule.name for item in wanted}
    mine = [run for run in there if mark_of(str(run.get("description", "")))[0] == owner]
    return [run for run in mine if run.get("display_name") not in names and _is_enabled(run)]


def _is_enabled(run: Document) -> bool:
    return str(run.get("mode", "")) == "ENABLE"


def _age(run: Document) -> tuple[str, str]:
    return str(run.get("created_at", "")), str(run["recurring_run_id"])
