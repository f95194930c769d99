"""What a word is to our YAML, and that what is written is read back."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distillery.plain_yaml import read_yaml, write_yaml

NUMBERS = {
    "1e-5": 1e-5,
    "1E5": 100_000.0,
    "-2.5e+3": -2500.0,
    ".5": 0.5,
    "+.5": 0.5,
    "5.": 5.0,
    "1.e3": 1000.0,
    "+3": 3,
    "-12": -12,
    "017": 17,
    "08": 8,
    "0o17": 15,
    "0x1F": 31,
    "-0x1f": -31,
    "0b101": 5,
    "1_000": 1000,
    "1_000.5": 1000.5,
    "-.inf": -math.inf,
}
WORDS = ["no", "yes", "on", "off", "Off", "y", "n", "12:30", "190:20:30", "2024-05-01", "2024-05-01 10:00:00", "=", "inf", "nan"]
WORDS += ["1e", "e5", "1_", "_1", "1__0", "0x", "0xg", "0o8", "1.2.3", "+-3", "--3", ".", "1,000", "tRue", "nULL", "1e5x"]
WORDS += ["1e5\u0660", "\u0663"]
PLAIN: dict[str, Any] = {"true": True, "False": False, "null": None, "~": None, "": None}


@pytest.mark.parametrize(("text", "value"), [*NUMBERS.items(), *((word, word) for word in WORDS), *PLAIN.items()])
def test_a_plain_word(text: str, value: Any) -> None:
    for found in (read_yaml(text), read_yaml(f"a:\n- {text}\n")["a"][0]):
        assert (type(found), found) == (type(value), value)
    if text:
        assert read_yaml(f"{text}: 1") == {value: 1}


def test_nan() -> None:
    assert math.isnan(read_yaml(".nan"))


def test_bases_are_merged() -> None:
    assert read_yaml("a: &base {x: 1, y: 2}\nb: {<<: *base, y: 3}")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "text",
    [
        *("a: 1\na: 2", "{a: {b: 1, b: 2}}", "&a [*a]", "&a {x: *a}", "{[1]: 2}", "a: b: c", "--- a\n--- b", "\udcff", "\x00"),
        *("!!timestamp 2024-05-01", "!!binary aGk=", "!!set {a}", "!!int x", "!!bool no", "!!python/object/apply:os.system [x]"),
        *("[" * 3000 + "]" * 3000, "9" * 5000),
    ],
)
def test_what_is_no_yaml_of_ours(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(b"a: \xff")


WORD = st.one_of(st.sampled_from([*NUMBERS, *WORDS, *PLAIN]), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
LEAF = st.one_of(WORD, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3), max_leaves=6)


@pytest.mark.parametrize("text", ["\x85", "a\x85b", " \u2028", "\u2029\n", "\r", "\ufeff", "\x00\x7f", "\xa0"])
def test_text_with_rare_characters_is_read_back(text: str) -> None:
    for value in (text, [text], {text: text}):
        assert read_yaml(write_yaml(value)) == value


@given(VALUE)
def test_what_is_written_is_read_back(value: Any) -> None:
    for style in ({}, {"default_flow_style": True, "width": 10_000}):
        assert read_yaml(write_yaml(value, **style)) == value
    assert yaml.safe_load(write_yaml("1e-5")) == "1e-5"
