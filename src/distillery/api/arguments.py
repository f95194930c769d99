"""What callers give to the public functions, checked before anything is done: a wrong type is one sentence, as a wrong value is."""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError
from distillery.grammar import with_article
from distillery.host import Watcher
from distillery.recipes.loader import is_own_file

Place = str | os.PathLike[str]
"""A path, or a URI as text."""


def located(place: Place, what: str) -> str:
    """A place as steps take it: a URI as it is, a path from the root on, so that a later `chdir` changes nothing.

    Args:
        place: as the caller gave it.
        what: the argument's name, for messages.

    Raises:
        ConfigError: it is neither a path nor a text, or no path can be like that.
    """
    text = as_text(place, what)
    if "://" in text or not text:
        return text
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:
        raise ConfigError(f"{what} = {text!r} begins with the home of a user that is not known here: write the path out.") from None


def as_text(place: Place, what: str) -> str:
    """A path, a URI or a name as a text.

    Raises:
        ConfigError: it is neither a path nor a text.
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else place
    if not isinstance(text, str):
        raise ConfigError(
            f"{what} is {with_article(type(place).__name__)}, where a path or a URI is expected: give a text, and write what is only "
            "in memory to a folder first."
        )
    if "\0" in text:
        raise ConfigError(f"{what} = {text!r} is not allowed: no path holds the character NUL.")
    return text


def new_folder(place: Place, what: str = "out") -> Path:
    """A folder of this machine that is to be written, from the root on; it is not made yet.

    Raises:
        ConfigError: none is named, a URI is, or a file stands in its way.
    """
    text = located(place, what)
    if not text or "://" in text:
        raise ConfigError(f"{what} = {text!r} is not allowed: name a folder of this machine.")
    folder = Path(text)
    if way := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise ConfigError(f"{what} = {text!r} cannot be a folder, because {str(way)!r} is a file: name another one.")
    return folder


def as_mapping(value: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """Values by name; none where nothing is given.

    Raises:
        ConfigError: it is no mapping.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{what} is {with_article(type(value).__name__)}, where names with their values are expected: give a dict.")
    return dict(value or {})


def is_count(value: object, least: int = 0) -> bool:
    """Whether a value is a whole number, of Python or of numpy, from some number on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def class_names(classes: int | Sequence[str]) -> Sequence[str]:
    """Names of classes, numbers where only their count is given.

    Raises:
        ConfigError: neither names nor a count.
    """
    if isinstance(classes, Integral) and is_count(classes):
        return [str(number) for number in range(int(classes))]
    if isinstance(classes, str):
        raise ConfigError(f"classes = {classes!r} is a text: give a list of names, or how many classes there are.")
    names: list[Any] = list(classes) if hasattr(classes, "__iter__") else [classes]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ConfigError(f"classes holds {wrong[0]!r}, which is no text: give a list of names, or how many classes there are.")
    return names


def check_hardware(device: str, threads: int) -> None:
    """Refuse what says neither a device nor a number of threads; whether the device is there is seen later.

    Raises:
        ConfigError: a device that is no text, or threads that are no whole number from 0 on.
    """
    if not isinstance(device, str):
        raise ConfigError(f"device = {device!r} is not allowed: choose auto, cpu, cuda or cuda:N.")
    if not is_count(threads):
        raise ConfigError(f"threads = {threads!r} is not allowed: give 0 (torch's choice) or more.")


def check_watcher(watch: Watcher) -> None:
    """Refuse what cannot be told of progress: without a watcher a step would take the process for its own.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(watch):
        raise ConfigError(f"progress = {watch!r} is not allowed: give a function of one ProgressEvent, or leave it out.")


def recipe_source(recipe: Place) -> str:
    """A preset's name as it is, a file of the caller's own from the root on."""
    text = as_text(recipe, "recipe")
    return located(text, "recipe") if is_own_file(text) else text
