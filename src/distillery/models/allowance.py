"""Which modules outside the table of architectures may be imported: those that the user allowed by name, and no other.

A bundle, a recipe or a run's record may come from elsewhere, and names its network's factory as text. Importing a module runs it, and
calling a factory runs that with arguments from the same text.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from distillery.config import nearest
from distillery.environment import environment
from distillery.errors import ConfigError
from distillery.foreign_code import guarded

PACKAGES = ("timm", "torchvision")
"""Whose models are chosen from a list of their own, so that nothing else of them can be named."""
VARIABLE = "DISTILLERY_ALLOW_MODULES"
_ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")


@contextmanager
def allow_modules(*names: str) -> Iterator[None]:
    """Allow more than the environment does, within the block and in processes that are started there.

    Args:
        names: each a module, `package.nets`, which allows what it and its package define, or one factory, `package.nets:build`. A package
            allows none of the modules below it.

    Raises:
        ConfigError: what is no such name.
    """
    with environment({VARIABLE: ",".join(dict.fromkeys([*_allowed(), *map(_checked, names)]))}):
        yield


@contextmanager
def allow_named(name: str) -> Iterator[None]:
    """Allow the factory of an architecture, and nothing else of its module, because the user named it here and now.

    Args:
        name: of an architecture; one that is not foreign needs no allowance.

    Raises:
        ConfigError: see `check_form`.
    """
    check_form(name)
    with allow_modules(*[name] if is_foreign(name) else []):
        yield


def is_foreign(name: str) -> bool:
    """Whether an architecture's name is module.path:factory, and not one of our table, torchvision's or timm's."""
    return ":" in name and name.partition(":")[0] not in PACKAGES


def check_form(name: str) -> None:
    """Refuse a foreign architecture's name that is not written as module.path:factory; nothing is imported.

    Raises:
        ConfigError: dots or names missing, or an attribute of an attribute.
    """
    if is_foreign(name) and not (_ENTRY.fullmatch(name) and ":" in name):
        raise ConfigError(f"architecture = {name!r} is not allowed: write torchvision:NAME, timm:NAME or module.path:factory.")


def check_allowed(name: str) -> None:
    """Refuse an architecture whose module nobody allowed; nothing is imported.

    Args:
        name: of an architecture; what is not foreign is always allowed.

    Raises:
        ConfigError: a module that was not allowed, one of Python's own, or a name of another form.
    """
    if not is_foreign(name):
        return
    check_form(name)
    path = name.partition(":")[0]
    if path.split(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"architecture = {name!r} is not allowed: {path} is part of Python, name a module that builds a network.")
    if not {path, name} & set(_allowed()):
        raise ConfigError(
            f"The architecture {name!r} asks for the module {path!r}, whose code would run here, and nobody allowed it: if you trust it, "
            f"give --allow-module {path} or {VARIABLE}={path} (several with commas between)."
        )


def import_factory(name: str) -> Callable[..., Any]:
    """The callable behind module.path:factory.

    Raises:
        ConfigError: see `check_allowed`; a module that cannot be imported, or a callable that it lacks or only took from elsewhere.
    """
    check_allowed(name)
    path, _, attribute = name.partition(":")
    with guarded(f"{path!r}, named by architecture {name!r}, cannot be imported", "install it or put its folder on PYTHONPATH"):
        module = import_module(path)
        factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"Module {path!r} has no callable {attribute!r}{nearest(attribute, public) or ': check its spelling.'}")
    home = _home(factory)
    if home.split(".")[0] != path.split(".")[0] and name not in _allowed():
        raise ConfigError(
            f"{attribute!r} of the module {path!r} comes from the module {home!r}, which nobody allowed: name a factory that {path} itself "
            f"defines, or allow this one by --allow-module {name} or {VARIABLE}={name}."
        )
    return factory  # type: ignore[no-any-return]


def _home(factory: Callable[..., Any]) -> str:
    """The module that defines a function, method or class, that of a partial's function, or that of the class of another object."""
    if isinstance(factory, partial):
        return _home(factory.func)
    if inspect.isroutine(factory) or inspect.isclass(factory):
        return str(getattr(factory, "__module__", None) or "builtins")
    return type(factory).__module__


def _allowed() -> list[str]:
    return [_checked(name.strip()) for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _ENTRY.fullmatch(name):
        raise ConfigError(f"{name!r} of --allow-module or {VARIABLE} is no module's name: write package.nets, or package.nets:build.")
    return name
