"""A pipeline of kfp from a function that takes the run form whole.

kfp reads the form from a function's signature, so each pipeline would spell all of its two dozen fields out, and once more for its plan.
The fields stand in a table already, which the plan step and the command line read too: the signature is made from it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

from kfp import dsl

from distillery.placement.pools import PLACED, fields_of
from distillery_kfp.pipelines.form import CLUSTER, NAMES, fields
from distillery_kfp.pipelines.metadata import component_of, metadata

Form = Mapping[str, Any]
"""The fields of a run form by name; while a pipeline is compiled each is a channel of kfp that will hold the value."""

_TYPES = {str: str, int: int, dict: dict[str, Any], list: list[Any]}


def pipeline(body: Callable[[Form], None]) -> Any:
    """Make kfp's pipeline of a function that is called like a row of `step_table.PIPELINES`; its docstring is the description.

    Args:
        body: wires the tasks, from the form.
    """
    known = fields(body.__name__)
    defaults = {name: Parameter.empty if row.required else row.default for name, row in known.items()}
    defaults |= {name: row.default for name, row in CLUSTER.items()}
    types = _types(body.__name__)
    # required ones first, as Python wants them
    ordered = sorted(defaults, key=lambda name: (defaults[name] is not Parameter.empty, list(defaults).index(name)))
    signature = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=defaults[name], annotation=types[name]) for name in ordered]
    return _graph(body, body.__name__, ordered, signature)


def nested(name: str, *components: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a pipeline within a pipeline of a function whose first argument is the form; it is called with the form first, too.

    Args:
        name: of the pipeline around it.
        components: that it runs, none of them the plan; of the form it is handed what they take, and what places them.
    """
    taken = {field for component in components for field in component.component_spec.inputs} | set(NAMES)
    sizes = {metadata(component_of(component.component_spec.name)).size for component in components}
    taken |= {f"{size}_{field}" for size in sizes for field in fields_of(size)}

    def wrap(body: Callable[..., Any]) -> Callable[..., Any]:
        types = {field: kind for field, kind in _types(name).items() if field in taken}
        own = list(inspect.signature(body).parameters.values())[1:]
        signature = [row.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for row in own]
        signature += [Parameter(field, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for field, kind in types.items()]
        returns = inspect.signature(body).return_annotation
        graph = _graph(body, body.__name__, list(types), signature, [row.name for row in own], returns)
        return lambda form, **given: graph(**given, **{field: form[field] for field in types})

    return wrap


def _types(name: str) -> dict[str, Any]:
    """The type for kfp of every field of a pipeline's form, and of what its plan says of places."""
    defaults = {field: type(row.default) for field, row in {**fields(name), **CLUSTER}.items()}
    return {field: _TYPES[kind] for field, kind in {**defaults, **PLACED}.items()}


def _graph(
    body: Callable[..., Any],
    name: str,
    form: Sequence[str],
    signature: Sequence[Parameter],
    own: Sequence[str] = (),
    returns: Any = Signature.empty,
) -> Any:
    def spelled_out(*values: Any) -> Any:
        given = dict(zip([row.name for row in signature], values, strict=True))
        return body({field: given[field] for field in form}, **{field: given[field] for field in own})

    spelled_out.__name__, spelled_out.__doc__ = name, body.__doc__
    spelled_out.__signature__ = Signature(list(signature), return_annotation=returns)  # type: ignore[attr-defined]
    return dsl.pipeline(name=name.replace("_", "-"))(spelled_out)
