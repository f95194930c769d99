"""The run form: names, defaults and types of a pipeline's parameters. Plain data: importing it imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.config import nearest
from distillery.errors import ConfigError
from distillery.host import PLACES, spoken
from distillery.step_table import DEFAULT_KIND, PIPELINES, STATISTICS_KIND, STEPS, makers_of

LARGEST_SEED = 2**53 - 1  # larger integers do not survive the float that Kubeflow makes of them

Value = str | int | dict[str, Any]
"""Of a field that the plan step reads."""


@dataclass(frozen=True)
class Parameter:
    """One field of the run form.

    Attributes:
        name: with its group's prefix, because the form sorts by name.
        default: also says the type; "" or 0 means the recipe's own value where `path` is given.
        summary: one line for the form's documentation.
        required: no default makes sense, so the form must be given a value; `default` then only says the type.
        steps: another value than the default has a meaning only for pipelines with one of these steps; empty for all.
        kind: and only for pipelines of this kind of recipes; empty for all.
    """

    name: str
    default: Value | list[Any]
    summary: str
    steps: tuple[str, ...] = ()
    kind: str = ""
    required: bool = False

    @property
    def path(self) -> str:
        """Dotted place in the recipe that the value replaces; empty where the plan step itself reads it."""
        return PLACES.get(self.name, "")

    def means_something(self, pipeline: str) -> bool:
        """Whether a pipeline reads it."""
        row = PIPELINES[pipeline]
        return self.kind in ("", row.kind) and (not self.steps or not set(self.steps).isdisjoint(row.steps))


_OOD = tuple(name for name, row in STEPS.items() if {"synthesizer", "set", "student"} & set(row.writes) and not row.opens_its_set)
_TRAINERS = makers_of("student")
_DRAWERS = tuple(name for name in makers_of("set") if name not in _TRAINERS)
_OPENERS = tuple(name for name, row in STEPS.items() if row.opens_its_set)
_TABLE = (
    Parameter("run_recipe_uri", "", "Path or URI of a recipe file of your own; it wins over run_recipe."),
    Parameter("run_overrides", {}, 'Recipe values to replace, by dotted path: {"synthesis.rounds": 40}.'),
    Parameter("run_salt", "", "Any text; a new one forces new work where an equal run is finished."),
    Parameter("run_seed", 0, "Seed of every random stream of the run, from 0 to 2^53 - 1."),
    Parameter("teacher_uri", "", "Folder or URI of the teacher's bundle, as written by `distillery import-teacher`.", required=True),
    Parameter("teacher_sha256", "", "Digest that the teacher must have; empty takes any."),
    Parameter(
        "eval_data_uri", "", "Labelled test images; empty measures agreement on held-out synthetic images.", steps=makers_of("report")
    ),
    Parameter("gen_rounds", 0, "Rounds of the method.", steps=makers_of("synthesizer")),
    Parameter("synth_ood_uri", "", "Images of another domain, for methods and stages that use some.", steps=_OOD),
    Parameter("synth_start_uri", "", "Set made before, of the same teacher, with which the pool begins.", steps=("distill_online",)),
    Parameter(
        "synth_statistics_uri", "", "The teacher's moments, measured before; empty reads its buffers.", steps=makers_of("statistics")
    ),
    Parameter("synth_size", 0, "Images of the synthetic set.", steps=_DRAWERS, kind=DEFAULT_KIND),
    Parameter("synth_per_class", 0, "Images to invert of each class.", steps=_DRAWERS, kind=STATISTICS_KIND),
    Parameter("student_architecture", "", "Student network, such as resnet18 or wrn_16_1.", steps=_TRAINERS),
    Parameter("student_method", "", "Plan of the student's training instead of the recipe's.", steps=_TRAINERS),
    Parameter(
        "images_uri", "", "Set made before, or real images, that the run takes instead of making some.", steps=_OPENERS, required=True
    ),
    Parameter("student_start_uri", "", "Bundle whose weights the student begins with; empty draws new ones.", steps=_TRAINERS),
    Parameter("mlflow_model_name", "", "Name in the model registry.", steps=makers_of("registration")),
)


def parameters_of(pipeline: str) -> dict[str, Parameter]:
    """The fields of a pipeline's run form by name.

    Raises:
        ConfigError: no such pipeline.
    """
    if pipeline not in PIPELINES:
        known = sorted(PIPELINES)
        raise ConfigError(f"There is no pipeline {pipeline!r}; known: {', '.join(known)}{nearest(pipeline, known) or '.'}")
    recipe = Parameter("run_recipe", PIPELINES[pipeline].recipe, "Preset to run, one of a method that the pipeline runs.")
    return {row.name: row for row in (recipe, *_TABLE)}


def read_parameters(pipeline: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """Every parameter of the pipeline, defaults filled in, checked; whole floats become integers again.

    Raises:
        ConfigError: an unknown name (with the nearest one), a wrong type, a value outside the choices, a seed out of range.
    """
    known = parameters_of(pipeline)
    for name in given:
        if name not in known:
            names = sorted(known)
            raise ConfigError(f"Pipeline {pipeline} has no parameter {name!r}; it has: {', '.join(names)}{nearest(name, names) or '.'}")
    values = {name: _read(row, given.get(name, row.default)) for name, row in known.items()}
    for name, row in known.items():
        if values[name] != row.default and not row.means_something(pipeline):
            others = [other for other in PIPELINES if row.means_something(other)]
            raise ConfigError(
                f"{spoken(name)} = {values[name]!r} means nothing to {pipeline}: leave it {row.default!r}, or run {' or '.join(others)}."
            )
    return values


def _read(row: Parameter, value: Any) -> Value:
    if isinstance(row.default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{spoken(row.name)} = {value!r} is not allowed: give a text.")
        return value.strip()
    if isinstance(row.default, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{spoken(row.name)} = {value!r} is not allowed: give a mapping of dotted paths to values.")
        return dict(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
    if not whole or not 0 <= value <= LARGEST_SEED:
        raise ConfigError(f"{spoken(row.name)} = {value!r} is not allowed: give a whole number from 0 to 2^53 - 1.")
    return int(value)
