"""The base of every configuration section: frozen, closed to unknown keys, hashed over its parsed values."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from distillery.errors import ConfigError

_MOST_WHOLE = 2**53
"""Beyond it a whole number that crosses Kubeflow's borders as a float is another one afterwards."""
_MOST = 3.4e38
"""About the largest float32: no device computes with more."""

Beta = Annotated[float, Field(ge=0, lt=1)]
"""One of Adam's momenta."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, so the text can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Config(BaseModel):
    """A frozen section of a recipe.

    Types are lax because integers cross Kubeflow's borders as floats; no field is ever None for the same reason. The hash is
    taken over the parsed model, so that `3` and `3.0` in a recipe are the same configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="after")
    def _computable(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                most = {int: _MOST_WHOLE, float: _MOST}.get(type(number))
                if most is not None and abs(number) > most:
                    shown = f"{number:.3g}" if abs(number) < 1e300 else "1e+300 or more"
                    raise ValueError(f"{name} has a value of {shown}, which nothing computes with: give at most {most:.3g}")
        return self

    @classmethod
    def parse(cls, value: object, where: str = "") -> Self:
        """Parse a mapping.

        Args:
            value: what stood in the recipe.
            where: dotted path of this section, put before the key in the message.

        Raises:
            ConfigError: one sentence naming the key, the value and what is allowed.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where or cls.__name__} must be a mapping of keys to values, not {value!r}.")
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            raise ConfigError(_sentence(cls, _first(cls, error.errors(include_url=False)), where)) from None

    def to_json(self) -> dict[str, Any]:
        """The section as plain JSON values, tuples as lists."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """sha256 of the parsed values, as hexadecimal text."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()


def nearest(name: str, allowed: list[str]) -> str:
    """A hint `, did you mean 'x'?` where a close name exists, else an empty string."""
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def refuse_idle(config: Config, names: Iterable[str], why: str) -> None:
    """Refuse settings that nothing reads beside the others; for a validator. Their defaults pass, for a document written by us holds all.

    Args:
        config: parsed.
        names: of the settings.
        why: when nothing reads them, as the end of a sentence.

    Raises:
        ValueError: names the first one, its value and its default.
    """
    for name in names:
        value, default = getattr(config, name), type(config).model_fields[name].get_default(call_default_factory=True)
        if value != default:
            raise ValueError(f"{name} = {_plain(value)!r} has no effect {why}: leave it out, or give its default {_plain(default)!r}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _first(cls: type[BaseModel], errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first thing that is wrong; where a value is no member of a union, which is an error a member, all of them as one."""
    first = errors[0]
    place = first["loc"][:-1]
    if not _is_union(cls, place):
        return first
    reasons = [error["msg"].removeprefix("Input should be ") for error in errors if error["loc"][:-1] == place]
    return {**first, "loc": place, "type": "union", "msg": "Input should be " + " or ".join(dict.fromkeys(reasons))}


def _is_union(cls: type[BaseModel], location: tuple[int | str, ...]) -> bool:
    """Whether the field there may be of several types, and none of them is a section of its own."""
    if not location:
        return False
    fields = [model.model_fields[str(location[-1])] for model in _models_at(cls, location[:-1]) if str(location[-1]) in model.model_fields]
    return any(get_origin(field.annotation) in (Union, UnionType) and not _models_in(field.annotation) for field in fields)


def _sentence(cls: type[BaseModel], error: ErrorDetails, where: str) -> str:
    path = ".".join([*([where] if where else []), *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden":
        allowed = sorted(_fields_at(cls, error["loc"][:-1]))
        unknown = str(error["loc"][-1])
        hint = nearest(unknown, allowed) or "."
        return f"Unknown key {path!r}; allowed here: {', '.join(allowed)}{hint}"
    if error["type"] == "missing":
        return f"{path} is missing: give it a value."
    if error["type"] == "string_type":
        return f"{path} = {error['input']!r} is not allowed: give a text; what YAML reads as a number, true, false or null needs quotes."
    reason = error["msg"].removeprefix("Value error, ").removesuffix(".")
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # of several keys together; the reason names them
        inner = f"{path.rpartition('.')[2]} is not allowed: "
        return _ended(f"{path or cls.__name__} is not allowed: {reason.removeprefix(inner)}")
    return _ended(f"{path or cls.__name__} = {error['input']!r} is not allowed: {reason[:1].lower()}{reason[1:]}")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    return {name for model in _models_at(cls, location) for name in model.model_fields}


def _models_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models found by walking `location` down from `cls`, through unions and tuples."""
    models = [cls]
    for part in location:
        inner: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            inner += _models_in(field.annotation) if field else [model]
        models = inner or models
    return models


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
