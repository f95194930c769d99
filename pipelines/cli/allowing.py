"""`--allow-module`, which every command has that may build a network from what a bundle, a recipe or a record names."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

_Option = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-module",
        metavar="MODULE",
        help="Import this module if a bundle, a recipe or a record names it: package.nets, or one factory, package.nets:build.",
    ),
]


def allowing(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--allow-module`, which may be repeated and counts while the command runs, in the processes that it starts too.

    A student's factory that was typed into `--set` is allowed by that.
    """

    @wraps(command)
    def allowed(*args: Any, allow_module: list[str] | None = None, **options: Any) -> None:
        from distillery.models.allowance import allow_modules
        from distillery.recipes.loader import parse_assignments, typed_modules

        typed = typed_modules(parse_assignments(options.get("set_") or []))
        with allow_modules(*allow_module or (), *typed):
            command(*args, **options)

    signature = inspect.signature(command)
    option = inspect.Parameter("allow_module", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Option)
    allowed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    allowed.__annotations__ = {**command.__annotations__, "allow_module": _Option}
    return allowed
