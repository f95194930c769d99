"""Whatever somebody else's code raises is one sentence; what must stop the process stops it."""

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery.foreign_code import guarded, named


class Unprintable(Exception):
    """An error whose message fails itself."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("bad shape.\nC++ frames follow"), "RuntimeError: bad shape"),
        (ValueError("\n\n  second   line\n"), "ValueError: second line"),
        (KeyError("weight"), "KeyError: 'weight'"),
        (AssertionError(), "AssertionError"),
        (StopIteration(), "StopIteration"),
        (Unprintable(), "Unprintable"),
        (OSError("\x1b[31mred\x07"), "OSError: ?[31mred?"),
        (TypeError("x" * 1000), "TypeError: " + "x" * 200),
    ],
)
def test_the_sentence_names_type_and_first_line(error: Exception, shown: str) -> None:
    assert named(error) == shown
    with pytest.raises(ConfigError) as caught, guarded("net fails", "mend it"):
        raise error
    assert str(caught.value) == f"net fails ({shown}): mend it."
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3), MissingResourceError("There is no bundle.")])
def test_what_is_not_the_codes_own_failure_goes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, guarded("net fails", "mend it"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("words", ["CUDA out of memory.", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"])
def test_want_of_memory_has_its_own_advice(words: str) -> None:
    for only_memory in (False, True):
        with pytest.raises(ConfigError, match="for want of memory.*lower the batch size"), guarded("net fails", "mend it", only_memory):
            raise RuntimeError(words)
    with pytest.raises(KeyError), guarded("net fails", "mend it", only_memory=True):
        raise KeyError("ours")
