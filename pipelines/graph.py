"""A pipeline of kfp from a function that takes the run form whole.

kfp reads the form from a function's signature, so each pipeline would spell all of its two dozen fields out, and once more for its plan.
The fields stand in a table already, which the plan step and the command line read too: the signature is made from it.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

from kfp import dsl

from distillery_kfp.pipelines.form import CLUSTER, fields

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
    types = {name: _TYPES[type(row.default)] for name, row in known.items()}
    defaults |= {name: row.default for name, row in CLUSTER.items()}
    types |= {name: _TYPES[type(row.default)] for name, row in CLUSTER.items()}

    def spelled_out(*values: Any) -> None:
        body(dict(zip(ordered, values, strict=True)))

    # required ones first, as Python wants them
    ordered = sorted(defaults, key=lambda name: (defaults[name] is not Parameter.empty, list(defaults).index(name)))
    signature = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=defaults[name], annotation=types[name]) for name in ordered]
    spelled_out.__name__, spelled_out.__doc__ = body.__name__, body.__doc__
    spelled_out.__signature__ = Signature(signature)  # type: ignore[attr-defined]
    return dsl.pipeline(name=body.__name__.replace("_", "-"))(spelled_out)
