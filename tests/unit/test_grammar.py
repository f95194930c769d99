"""Counts with their nouns, names behind their article."""

import pytest

from distillery.grammar import counted, with_article


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (counted(0, "stage"), "0 stages"),
        (counted(1, "stage"), "1 stage"),
        (counted(1024, "stage"), "1,024 stages"),
        (counted(1, "class", "classes"), "1 class"),
        (counted(3, "class", "classes"), "3 classes"),
        (with_article("int"), "an int"),
        (with_article("Array"), "an Array"),
        (with_article("dict"), "a dict"),
    ],
)
def test_words_bend(words: str, text: str) -> None:
    assert words == text
