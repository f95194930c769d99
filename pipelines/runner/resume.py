"""A run again from its record alone: the recipe as it was resolved, the seed, the teacher by hash, the machine's settings."""

import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError, DistilleryError, StoreError
from distillery.host import INPUTS
from distillery.ledger.runs import Run
from distillery.plain_yaml import write_yaml
from distillery.recipes.loader import is_own_file
from distillery.recipes.parameters import parameters_of, read_parameters
from distillery.recipes.schema import read_recipe
from distillery.step_table import STEPS, keepers
from distillery.storage import Store
from distillery.workbench.keys import step_versions
from distillery.workbench.planning import recipe_source, resolve_recipe
from distillery_kfp.pipelines.runner.local import RunRequest

logger = logging.getLogger(__name__)

_REQUESTED = (
    "run_recipe",
    "run_recipe_uri",
    "run_overrides",
    "run_seed",
    "run_salt",
    "teacher_uri",
    "teacher_sha256",
    *INPUTS,
    "student_method",
)


def request_of(run: Run, store: str, workdir: Path, moved: Mapping[str, str] | None = None) -> RunRequest:
    """What has to be asked for so that a stopped or failed run goes on.

    Where the recipe's file or preset no longer says what the run was planned with, the recipe in the record is written to the workspace
    and taken instead.

    Args:
        run: from the store.
        store: where it is.
        workdir: local workspace.
        moved: where the teacher and what the run was given beside it lie now, by argument of `RunRequest`; what is left out or "" lies
            where it was. Each must be the same: what a plan made of other bytes is other work.

    Raises:
        ConfigError: the run is finished, runs, was made needless by another, or was planned with a recipe that is not allowed any more.
        StoreError: its record is damaged.
    """
    _check(run)
    environment = run.document.get("environment", {})
    pipeline = str(run.document["pipeline"])
    values = read_parameters(pipeline, run.parameters)
    source, method, overrides, form = _recipe(run, pipeline, values, workdir)
    if others := _other_code(run):
        logger.warning("Run %s was planned by other code: what it has of %s is done again.", run.id, ", ".join(others))
    places: dict[str, Any] = {argument: str(values[name]) for name, argument in {"teacher_uri": "teacher", **INPUTS}.items()}
    places |= {argument: place for argument, place in (moved or {}).items() if place}
    return RunRequest(
        recipe=source,
        store=store,
        workdir=workdir,
        student_method=method,
        overrides=overrides,
        seed=run.seed,
        salt=str(values["run_salt"]),
        device=str(environment.get("device", "")),
        threads=int(environment.get("threads", 0)),
        teacher_sha256=run.teacher_sha256,
        form=form,
        run_id=run.id,
        **places,
    )


def _other_code(run: Run) -> list[str]:
    """The steps whose code is another than when the run was planned; all of them where torch is."""
    planned, now = run.document.get("step_versions", {}), step_versions()
    steps = [step for step in keepers() if STEPS[step].section in run.document.get("sections", {})]
    return [step for step in steps if planned.get("torch") != now["torch"] or planned.get(step) != now[step]]


def workspace_of(run: Run, store: Store, otherwise: Path) -> Path:
    """The workspace that the run had on this machine, else `otherwise`, as for a run in the copy of a store."""
    state = run.state
    here = state is not None and state.host == platform.node() and state.is_of(store)
    return Path(state.workspace) if state and here and Path(state.workspace).is_dir() else otherwise


def _check(run: Run) -> None:
    if run.standing == "damaged" or not {"pipeline", "parameters"} <= set(run.document):
        reason = " ".join(run.damage) or f"The record of run {run.id} says not enough."
        raise StoreError(f"Run {run.id} cannot be resumed: {reason}")
    if run.standing == "running":
        holder = f"process {run.state.process} on {run.state.host}" if run.state else "another machine"
        raise ConfigError(f"Run {run.id} is worked at by {holder}: stop that first, or wait for it.")
    if run.standing in ("finished", "superseded"):
        done = f"was finished as {run.successor}" if run.successor else "is finished"
        raise ConfigError(f"Run {run.id} {done}, so nothing is left to do: give `distillery run` a new --salt to do the work anew.")


def _recipe(run: Run, pipeline: str, values: Mapping[str, Any], workdir: Path) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """The recipe's name or file, the plan of its student where that is another, its overrides, and further fields of the run form."""
    source = recipe_source(values)
    try:
        same = resolve_recipe(pipeline, values).to_json() == run.config
    except DistilleryError:
        same = False
    if same:
        defaults = {name: row.default for name, row in parameters_of(pipeline).items()}
        form = {name: value for name, value in values.items() if name not in _REQUESTED and value != defaults[name]}
        return source, str(values["student_method"]), dict(values["run_overrides"]), form
    try:
        read_recipe(run.config)
    except DistilleryError as error:
        raise ConfigError(
            f"Run {run.id} was planned by a Distillery whose recipes were written otherwise, and cannot be resumed by this one ({error}) "
            "Give `distillery run` the recipe as it is written now."
        ) from None
    kept = workdir / "resumed" / run.id / f"{Path(source).stem if is_own_file(source) else run.recipe.replace('/', '-')}.yaml"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(write_yaml(run.config), encoding="utf-8")
    logger.warning("%s no longer says what run %s was planned with: its recipe is taken from its record.", source, run.id)
    return str(kept), "", {}, {}
