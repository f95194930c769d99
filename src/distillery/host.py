"""Whose process the steps run in: one of their own, as in a pod and below `distillery run`, or that of a host, such as a notebook.

In a process of its own a step listens to signals, configures logging and draws a bar. A host does all this as it likes: there a step
leaves it alone, and tells whoever called how far it is. A sentence names a field of the run form as whoever reads it would give it:
as the form does on a cluster, as an option of a command, or as an argument of a function.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgressEvent:
    """How far a step is.

    Attributes:
        step: its name, such as `train_student`.
        stage: what it does at the moment, in a few words.
        done: finished rounds, epochs or images, of `total`.
        total: how many there will be.
        numbers: of the round or epoch that has just ended, such as its loss terms; empty within one.
    """

    step: str
    stage: str
    done: int
    total: int
    numbers: Mapping[str, float] = field(default_factory=dict)


Watcher = Callable[[ProgressEvent], None]
"""Told of each round, epoch or batch; what it raises ends the step, which goes on from its last checkpoint when it is called again."""

INPUTS = {
    "eval_data_uri": "data",
    "images_uri": "images",
    "student_start_uri": "student_start",
    "synth_start_uri": "start",
    "synth_ood_uri": "ood",
    "synth_statistics_uri": "statistics",
}
"""Fields of the run form that say where data lies that a run is given beside its teacher, by what Python calls them; an option of a
command is called alike."""
PLACES = {
    "gen_rounds": "synthesis.rounds",
    "synth_size": "set.size",
    "synth_per_class": "per_class",
    "student_architecture": "student.architecture.name",
    "mlflow_model_name": "registration.model_name",
}
"""Fields of the run form that replace a value of the recipe, and its dotted place there, as `--set` names it."""
_ARGUMENTS = {
    **INPUTS,
    "teacher_uri": "teacher",
    "run_recipe": "recipe",
    "run_recipe_uri": "recipe",
    "run_overrides": "overrides",
    "run_seed": "seed",
    "run_salt": "salt",
    "student_method": "student_method",
}
_WORDS = {"run_recipe": "RECIPE", "run_recipe_uri": "RECIPE", "run_overrides": "--set"}

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher | None:
    """Whom the host has named to be told; None in a process of the step's own."""
    return _watcher.get()


def spoken(field: str) -> str:
    """A field of the run form as it is called where the user is: in the form, on a command line, or in Python.

    Args:
        field: its name in the form; one that is only there keeps it.
    """
    if field not in _ARGUMENTS or os.environ.get("KFP_POD_NAME"):
        return field
    if watcher() is not None:
        return _ARGUMENTS[field]
    return _WORDS.get(field, f"--{_ARGUMENTS[field].replace('_', '-')}")


@contextmanager
def hosted(watch: Watcher) -> Iterator[None]:
    """Run steps within the block as guests of this process.

    Args:
        watch: is told how far they are.
    """
    token = _watcher.set(watch)
    try:
        yield
    finally:
        _watcher.reset(token)
