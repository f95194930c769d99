"""What the tests that run over every method need to know of one: a module a row of the catalog, discovered by its name."""

from importlib import import_module
from typing import Any

from distillery.synthesis.config import MethodConfig


def tiny(name: str) -> dict[str, Any]:
    """The `TINY` of `tests/methods/<name>.py`, or of a toy: settings under which a turn takes a fraction of a second."""
    from toy_methods import TOYS

    found: dict[str, Any] = TOYS[name].tiny if name in TOYS else import_module(f"methods.{name}").TINY
    return found


def killed(name: str) -> dict[str, Any]:
    """The `KILLED` of `tests/methods/<name>.py`, where kill tests need more than its `TINY`: say a warm-up that a kill can come into."""
    from toy_methods import TOYS

    found: dict[str, Any] = tiny(name) if name in TOYS else getattr(import_module(f"methods.{name}"), "KILLED", tiny(name))
    return found


def shortened(settings: MethodConfig, images: int, steps: int) -> dict[str, Any]:
    """The values that make a turn of a recipe's method that small, to override its own with."""
    own = settings.to_json()
    return {name: value for name, value in settings.cut(images, steps).to_json().items() if value != own[name]}
