"""Recipes by name or from the user's own file: `extends`, overrides, and a listing that imports no torch."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distillery.errors import ConfigError, MissingResourceError
from distillery.plain_yaml import read_yaml
from distillery.step_table import DEFAULT_KIND, PIPELINES, STATISTICS_KIND, find_pipeline

if TYPE_CHECKING:
    from distillery.recipes.schema import Recipe

PRESETS = Path(__file__).parent
_CHOICES = {"student.architecture": ("name", "arguments"), "synthesis": ("method", "config")}  # place -> what names it, what belongs to it
_NAMED = re.compile(r"student\.stages\.\d+\.(objective|objectives\.\d+|optimizer|schedule)|synthesis\.config\.generator")
"""Places of parts whose settings are those of what their `name` says."""
_LEFT_BEHIND = {
    STATISTICS_KIND: (
        *("student", "evaluation", "registration", "statistics", "set.size", "set.batch", "set.holdout", "set.labels"),
        *("about.student", "about.student_steps", "about.images", "about.published", "about.minutes"),
    )
}
"""What a recipe of a kind does not take along from one of another kind: it would have no effect, or tell of the other."""


@dataclass(frozen=True)
class Preset:
    """What the command line shows of a preset.

    Attributes:
        name: "<method>/<name>".
        method: name of its row in the method catalog; "" where its kind has none.
        about: the recipe's `about:` block.
        kind: of the recipe.
        generators: how many of them it trains, as it says it.
    """

    name: str
    method: str
    about: Mapping[str, Any]
    kind: str = DEFAULT_KIND
    generators: object = 1

    @property
    def pipeline(self) -> str:
        """The pipeline that runs it."""
        return _pipeline_for(self.kind, self.method, self.generators)


def recipe_names() -> list[str]:
    """Names of the presets that ship, sorted; folders that begin with an underscore hold bases, not recipes."""
    files = (path.relative_to(PRESETS) for path in PRESETS.rglob("*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in files if not path.parts[0].startswith("_"))


def recipe_folders() -> list[str]:
    """What the names of presets begin with, before the slash, sorted: a method, or what the recipes have in common without one."""
    return sorted({name.partition("/")[0] for name in recipe_names()})


def list_recipes() -> list[Preset]:
    """Every preset with its method and `about:` block; neither torch nor a config class is imported."""
    texts: dict[str, dict[str, Any]] = {}
    presets = []
    for name in recipe_names():
        document = _follow(name, texts, ())
        synthesis, kind = document.get("synthesis", {}), str(document.get("kind", DEFAULT_KIND))
        presets.append(Preset(name, synthesis.get("method", ""), document["about"], kind, synthesis.get("generators", 1)))
    return presets


def pipeline_of(document: Mapping[str, Any]) -> str:
    """The pipeline that runs a recipe, from its raw mapping.

    Raises:
        ConfigError: an unknown kind or method, or no pipeline for them.
    """
    synthesis = document.get("synthesis")
    said = synthesis if isinstance(synthesis, Mapping) else {}
    return _pipeline_for(str(document.get("kind", DEFAULT_KIND)), str(said.get("method", "")), said.get("generators", 1))


def _pipeline_for(kind: str, method: str, generators: object) -> str:
    from distillery.methods.catalog import find_method

    rows = [row for row in PIPELINES.values() if row.kind == kind]
    if not any(row.coupling for row in rows) or not (method or all(row.coupling for row in rows)):
        return find_pipeline(kind)
    return find_method(method).pipeline_for(generators, kind)


def recipe_name(source: str) -> str:
    """The name that outputs carry: the preset's, or the file's stem for a user's own file, never its path."""
    return Path(source).stem if is_own_file(source) else source


def is_own_file(source: str) -> bool:
    """Whether `source` is a path or URI of a YAML file rather than a preset's name."""
    return "://" in source or source.endswith((".yaml", ".yml"))


def load_document(source: str) -> dict[str, Any]:
    """The raw mapping of a recipe, its bases merged in.

    Args:
        source: a preset's name, or a path or URI ending in .yaml of the user's own file.

    Raises:
        ConfigError: unknown name (with the nearest one), text that is no mapping, `extends` going in a circle.
        MissingResourceError: no such file.
    """
    if not is_own_file(source) and source not in recipe_names():
        raise ConfigError(_unknown(source))
    return _follow(source, {}, ())


def load_recipe(source: str, overrides: Mapping[str, Any] | None = None) -> "Recipe":
    """A recipe, parsed and checked down to the settings of its method.

    Args:
        source: as in `load_document`.
        overrides: dotted keys or nested mappings, see `apply_overrides`.

    Raises:
        ConfigError: anything wrong in it, as one sentence.
        MissingResourceError: no such file.
    """
    from distillery.recipes.schema import read_recipe

    return read_recipe(apply_overrides(load_document(source), overrides or {}))


def parse_assignments(assignments: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """Texts like `synthesis.config.steps=10` as a dict of dotted keys, each value read as YAML.

    Args:
        assignments: as they stood on the command line.
        flag: what stood before them, for messages.

    Raises:
        ConfigError: a text without `=`, or a value that is no YAML.
    """
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"{flag} {text!r} is not an assignment: write {'section.' if flag == '--set' else ''}key=value.")
        try:
            overrides[key.strip()] = read_yaml(value)
        except yaml.YAMLError:
            raise ConfigError(f"The value {value!r} in {flag} {text!r} is not YAML: put quotes around it.") from None
    return overrides


def typed_modules(overrides: Mapping[str, Any]) -> list[str]:
    """The student that overrides name, where it is a factory of a module and no network of a table: who types one allows it by that.

    Args:
        overrides: as in `apply_overrides`.

    Returns:
        What `allow_modules` takes.

    Raises:
        ConfigError: a factory's name of another form than module.path:factory.
    """
    from distillery.models.allowance import check_form, is_foreign

    value = _find(apply_overrides({}, overrides), "student.architecture.name")
    if not isinstance(value, str) or not is_foreign(value):
        return []
    check_form(value)
    return [value]


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `document` with single values replaced.

    Args:
        document: a recipe's raw mapping; it stays as it is.
        overrides: keys are dotted paths (`student.stages.0.epochs`), a number picks an element of a list; a value that is a mapping is
            merged into what stands there. All of them are one change: another architecture, method, objective and the like, see
            `merge`, comes with the arguments or settings that stand beside its name, in whatever order.

    Raises:
        ConfigError: a path that runs through a plain value or to a list element that is not there.
    """
    result, change = copy.deepcopy(dict(document)), dict[str, Any]()
    for path, value in overrides.items():
        nested: Any = value
        for part in reversed(str(path).split(".")):
            nested = {part: nested}
        _merge(change, nested)
    merge(result, change)
    return result


def merge(base: dict[str, Any], changes: Mapping[Any, Any]) -> None:
    """Merge `changes` into `base` in place: mappings deeply, a mapping with numbers as keys into a list's elements, all else replaced.

    Where they name another student architecture, method, generator, objective, optimizer or schedule, the old one's arguments or settings
    are dropped first: they would not fit it. So is what the other method never reads, see `recipes/effects.py`, or another kind of recipe.

    Raises:
        ConfigError: see `apply_overrides`.
    """
    kind = changes.get("kind")  # whatever else it is, is refused where it is parsed
    if isinstance(kind, str) and base.get("kind", DEFAULT_KIND) != kind:
        for place in _LEFT_BEHIND.get(kind, ()):
            holder, _, key = place.rpartition(".")
            part = _find(base, holder) if holder else base
            if isinstance(part, dict):
                part.pop(key, None)
    for place, (name, owned) in _CHOICES.items():
        old, new = _find(base, place), _find(changes, place)
        if isinstance(old, dict) and isinstance(new, Mapping) and name in old and new.get(name, old[name]) != old[name]:
            old.pop(owned, None)
            if name == "method":
                _drop_idle(base, new[name])
    _merge(base, changes)


def _drop_idle(base: dict[str, Any], method: object) -> None:
    from distillery.methods.catalog import METHODS  # here, because it imports pydantic, and a listing does without
    from distillery.recipes.effects import drop_idle

    if isinstance(method, str) and method in METHODS:  # whatever else it is, is refused where it is parsed
        drop_idle(base, METHODS[method])


def _find(document: Any, place: str) -> Any:
    for part in place.split("."):
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _merge(base: dict[str, Any], changes: Mapping[Any, Any], where: str = "") -> None:
    for key, value in changes.items():
        path = ".".join(part for part in (where, str(key)) if part)
        present = base.get(str(key))
        if not isinstance(value, Mapping):
            base[str(key)] = copy.deepcopy(value)
        elif isinstance(present, list):
            _merge_list(present, value, path)
        elif present is None or isinstance(present, Mapping):
            renamed = present and _NAMED.fullmatch(path) and value.get("name", present.get("name")) != present.get("name")
            base[str(key)] = {} if renamed else dict(present or {})
            _merge(base[str(key)], value, path)
        else:
            raise ConfigError(f"{path} = {present!r} is a plain value and holds no key {next(iter(value), '')!r}: set {path} itself.")


def _merge_list(present: list[Any], changes: Mapping[Any, Any], where: str) -> None:
    for key, value in changes.items():
        index = int(key) if str(key).isdigit() else -1
        if not 0 <= index < len(present):
            raise ConfigError(f"{where}.{key} does not exist: {where} is a list of {len(present)}, counted from 0.")
        holder = {"": present[index]}
        _merge(holder, {"": value}, f"{where}.{key}")
        present[index] = holder[""]


def _follow(source: str, known: dict[str, dict[str, Any]], chain: tuple[str, ...]) -> dict[str, Any]:
    """`source` merged over what it extends; `known` keeps bases that many presets share."""
    if source in chain:
        raise ConfigError(f"'extends' goes in a circle: {' -> '.join([*chain, source])}; take one of them out.")
    if source not in known:
        document = _read(source)
        extends = document.pop("extends", "")
        if not isinstance(extends, str):
            raise ConfigError(f"extends = {extends!r} in {recipe_name(source)} is not allowed: name one recipe or file.")
        if extends:
            result = copy.deepcopy(_follow(_beside(source, extends), known, (*chain, source)))
            if is_own_file(source):
                result.pop("about", None)  # it speaks of the other recipe: of its paper, its images, its steps
            merge(result, document)
            document = result
        known[source] = document
    return known[source]


def _beside(source: str, extends: str) -> str:
    """A user's file may extend a preset, or another file by a path relative to its own."""
    if is_own_file(extends) and is_own_file(source) and "://" not in extends:
        return source.rpartition("/")[0] + "/" + extends if "/" in source and not extends.startswith("/") else extends
    return extends


def _read(source: str) -> dict[str, Any]:
    if is_own_file(source):
        text = _read_own(source)
    else:
        path = PRESETS / f"{source}.yaml"
        if ".." in source or not path.is_file():
            raise ConfigError(_unknown(source))
        text = path.read_bytes()
    try:
        document = read_yaml(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise ConfigError(f"The recipe {source!r} is not YAML{place}: {problem + ', ' if problem else ''}correct the file.") from None
    if not isinstance(document, dict):
        raise ConfigError(f"The recipe {source!r} holds no mapping of sections: start from a preset, e.g. `extends: fast_dfkd/digits`.")
    return document


def _read_own(source: str) -> bytes:
    from distillery.storage import read_uri

    if "://" in source:
        return read_uri(source)
    try:
        return Path(source).expanduser().read_bytes()
    except OSError:
        raise MissingResourceError(
            f"There is no recipe file {source!r}: give a path to a .yaml file, or a name that `distillery recipes` lists."
        ) from None


def _unknown(name: str) -> str:
    from distillery.config import nearest

    names = recipe_names()
    if name in recipe_folders():
        return f"{name!r} is a folder of recipes: choose one that `distillery recipes {name}` lists."
    hint = nearest(name, names) or "."
    return f"There is no recipe {name!r}; `distillery recipes` lists all {len(names)}, and a file of your own ends in .yaml{hint}"
