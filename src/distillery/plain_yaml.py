"""YAML as people write it: the one reader and the one writer of the house, by the core schema of YAML 1.2.

`1e-5` is a number, and `no`, `on`, `12:30` and `2024-05-01` are words: YAML 1.1, which PyYAML reads, has it the other way round.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from distillery.errors import ConfigError, MissingResourceError

_BOOLEAN, _INTEGER, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))
_DIGITS = "[0-9]+(?:_[0-9]+)*"  # with underscores, as Python has them
_PATTERNS = {
    _BOOLEAN: (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    _NULL: (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    _INTEGER: (rf"[-+]?(?:{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)", "-+0123456789"),
    _FLOAT: (
        rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|{_DIGITS}[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_LINE_ENDS = {"\x85", "\u2028", "\u2029"}
_BASES = {"0o": 8, "0x": 16, "0b": 2}


def read_yaml(text: str | bytes) -> Any:
    """The value of one YAML document.

    Booleans are true and false, null is `null`, `~` or nothing. Integers are decimal (a leading zero means nothing, `1_000` is 1000) or
    begin with 0x, 0o or 0b; floats are written as in Python, or `.inf` and `.nan`. Everything else that stands without quotes is text.

    Raises:
        yaml.YAMLError: text that is no YAML, a tag of another type, a key that stands twice, a node that holds itself, an integer of
            thousands of digits.
    """
    try:
        return yaml.load(text, Loader=_READER)
    except (ValueError, RecursionError) as error:  # bytes that are no text, an integer of thousands of digits, brackets without end
        raise yaml.YAMLError(f"not readable: {type(error).__name__}") from None


def read_yaml_file(path: Path, what: str, missing: str, wrong: str) -> Any:
    """The value of a file that somebody named.

    Args:
        path: of the file.
        what: a noun phrase that names it, for messages.
        missing: what to give instead of a file that cannot be read.
        wrong: the whole sentence about a file that is no YAML.

    Raises:
        MissingResourceError: it cannot be read.
        ConfigError: it is no YAML.
    """
    try:
        return read_yaml(path.read_bytes())
    except OSError as error:
        raise MissingResourceError(f"{what} cannot be read ({error.strerror}): {missing}.") from None
    except yaml.YAMLError:
        raise ConfigError(wrong) from None


def write_yaml(value: Any, **style: Any) -> str:
    """The text that `read_yaml` reads back as `value`; readers of YAML 1.1 see the same words.

    Args:
        value: mappings, lists and plain values.
        style: as `yaml.safe_dump` takes it; keys keep their order.
    """
    text: str = yaml.dump(value, Dumper=_Writer, **{"sort_keys": False, "allow_unicode": True, **style})
    return text


def _compiled() -> dict[str, tuple[re.Pattern[str], list[str]]]:
    return {tag: (re.compile(f"(?:{pattern})\\Z"), list(first)) for tag, (pattern, first) in _PATTERNS.items()}


def _reader() -> Any:
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    merge = {"<": [("tag:yaml.org,2002:merge", re.compile(r"<<\Z"))]}
    plain = {"yaml_implicit_resolvers": merge, "yaml_constructors": {}}  # without 1.1's timestamps, sets, binaries and the like
    reader: Any = type("Reader", (base,), plain)
    for tag, (pattern, first) in _compiled().items():
        reader.add_implicit_resolver(tag, pattern, first)
    reader.add_constructor(_BOOLEAN, lambda loader, node: ("false", "true").index(_scalar(loader, node).lower()) == 1)
    reader.add_constructor(_NULL, lambda loader, node: None)
    reader.add_constructor(_INTEGER, _integer)
    reader.add_constructor(_FLOAT, _float)
    reader.add_constructor("tag:yaml.org,2002:str", _scalar)
    reader.add_constructor("tag:yaml.org,2002:seq", lambda loader, node: loader.construct_sequence(node, deep=True))
    reader.add_constructor("tag:yaml.org,2002:map", _mapping)
    reader.add_constructor(None, base.construct_undefined)
    return reader


def _scalar(loader: Any, node: Any) -> str:
    return str(loader.construct_scalar(node))


def _integer(loader: Any, node: Any) -> int:
    text = _scalar(loader, node).replace("_", "")
    digits = text.lstrip("+-")
    base = _BASES.get(digits[:2], 10)
    return int(digits if base == 10 else digits[2:], base) * (-1 if text.startswith("-") else 1)


def _float(loader: Any, node: Any) -> float:
    text = _scalar(loader, node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _mapping(loader: Any, node: Any) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
            seen.add((key.tag, key.value))
    loader.flatten_mapping(node)  # `<<: *base`
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


class _Writer(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> Any:
        """Escape Unicode's rare line ends, which PyYAML would write as they are and read back as a space."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _LINE_ENDS & set(text) else None)


_READER = _reader()
_Writer.add_representer(str, _Writer.represent_text)
for _tag, (_pattern, _first) in _compiled().items():
    _Writer.add_implicit_resolver(_tag, _pattern, _first)
