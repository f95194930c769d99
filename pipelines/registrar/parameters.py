"""Values for a run form, checked against the package before anything is asked of the server.

The server would refuse some of them only when half the work is done, and takes others that no run survives.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from distillery.config import canonical_json, nearest
from distillery.errors import ConfigError
from distillery_kfp.pipelines.form import ALL, check_form, summaries
from distillery_kfp.pipelines.registrar.package import PipelinePackage

LARGEST_BYTES = 10_000
"""Of all values of a run together, as JSON: the server's default."""
LARGEST_INTEGER = 2**53
MACRO = "[["
"""Begins what the controller of schedules replaces in values, such as the time of the run."""

_WORDS = {
    "STRING": "a text",
    "NUMBER_INTEGER": "a whole number below 2^53",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list",
    "STRUCT": "a mapping with texts as keys",
}


def check_parameters(package: PipelinePackage, given: Mapping[str, Any], where: str, scheduled: bool = False) -> dict[str, Any]:
    """The values as they are sent.

    Args:
        package: whose run form they are for.
        given: by name; what is left out keeps its default.
        where: they stand, put before the name in the message.
        scheduled: they are a schedule's, whose controller replaces macros in them.

    Raises:
        ConfigError: a name that the form does not have, a required one that is missing, a value of another type or none of the choices,
            a macro in a schedule, more than the server takes, or what it takes and no run of ours survives.
    """
    known = sorted(package.parameters)
    for name in given:
        if name not in package.parameters:
            raise ConfigError(
                f"{where}.{name} is no parameter of {package.name}; it has {', '.join(known)}{nearest(str(name), known) or '.'}"
            )
    values = {}
    for name, field in package.parameters.items():
        if name in given:
            values[name] = _checked(f"{where}.{name}", given[name], field)
        elif "defaultValue" not in field and not field.get("isOptional"):
            raise ConfigError(f"{where}.{name} is missing: {field.get('description') or 'it has no default.'}")
    if scheduled:
        for name, text in ((name, text) for name, value in values.items() for text in texts_of(value)):
            refuse_macro(f"{where}.{name}", text)
    if (size := len(canonical_json(values).encode())) > LARGEST_BYTES:
        raise ConfigError(
            f"{where} has {size:,} bytes as JSON: Kubeflow takes at most {LARGEST_BYTES:,}, so put a recipe into a file and give its URI."
        )
    _check_own(package, values)
    return values


def runtime_config(parameters: Mapping[str, Any], root: str) -> dict[str, Any]:
    """What the API is told of a run's values, and of the place for its artifacts; "" leaves that to the namespace."""
    return {"parameters": dict(parameters), **({"pipeline_root": root} if root else {})}


def refuse_macro(where: str, text: str) -> None:
    """Refuse a text of a schedule in which its controller would replace something.

    Raises:
        ConfigError: names it.
    """
    if MACRO in text:
        raise ConfigError(f"{where} = {text!r} is not allowed: Kubeflow replaces what stands in '[[' ']]' in a schedule, so write no '[['.")


def texts_of(value: Any) -> Iterator[str]:
    """Every text anywhere in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def _check_own(package: PipelinePackage, values: Mapping[str, Any]) -> None:
    """Check what only we know of a form of ours, unless the package has another one than this code compiles."""
    pipeline = package.name.replace("-", "_")
    if pipeline in ALL and set(package.parameters) == set(summaries(pipeline)):
        profile = {"run_profile": package.parameters["run_profile"]["defaultValue"], "profiles": package.profiles}
        check_form(pipeline, {**profile, **values})


def _checked(where: str, value: Any, field: Mapping[str, Any]) -> Any:
    kind = str(field.get("parameterType", ""))
    if not _is_of(kind, value):
        raise ConfigError(f"{where} = {value!r} is not allowed: give {_WORDS.get(kind, kind)}.")
    if "literals" in field and value not in field["literals"]:
        choices = [str(choice) for choice in field["literals"]]
        raise ConfigError(
            f"{where} = {value!r} is not allowed: choose {', '.join(map(repr, choices))}{nearest(str(value), choices) or '.'}"
        )
    if kind == "NUMBER_INTEGER":
        return int(value)
    return value


def _is_of(kind: str, value: Any) -> bool:
    number = not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)))
    plain = {
        "STRING": isinstance(value, str),
        "NUMBER_INTEGER": number and value == int(value) and abs(value) < LARGEST_INTEGER,
        "NUMBER_DOUBLE": number,
        "BOOLEAN": isinstance(value, bool),
        "LIST": isinstance(value, list) and _is_json(value),
        "STRUCT": isinstance(value, Mapping) and _is_json(value),
    }
    return plain.get(kind, False)


def _is_json(value: Any) -> bool:
    """Whether JSON can say it as it is, with no null inside, which Kubeflow's own code trips over."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_json(inner) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
