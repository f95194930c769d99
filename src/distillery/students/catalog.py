"""The table of student objectives: plain data, so that listing them imports no torch."""

from importlib import import_module
from typing import Any

from distillery.config import nearest
from distillery.errors import ConfigError

# name -> "module:Class"; the config class is the same name with `Config` appended
OBJECTIVES: dict[str, str] = {"kd": "distillery.students.kd:KD"}


def load_objective(name: str) -> tuple[type[Any], type[Any]]:
    """The objective class called `name` and its config class.

    Raises:
        ConfigError: no such objective; names the nearest one.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"There is no student objective {name!r}; known: {', '.join(OBJECTIVES)}{nearest(name, list(OBJECTIVES)) or '.'}")
    module_name, class_name = OBJECTIVES[name].split(":")
    module = import_module(module_name)
    return getattr(module, class_name), getattr(module, f"{class_name}Config")
