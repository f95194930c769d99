"""Calls into code that is not ours: whatever it raises becomes one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from distillery.errors import ConfigError, DistilleryError

_LONGEST = 200  # characters of somebody else's message
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def guarded(what: str, advice: str, only_memory: bool = False) -> Iterator[None]:
    """Turn what a block raises into a ConfigError.

    Its sentence is `<what> (<type>: <first line of its message>): <advice>.`
    Errors of ours go through as they are, and so do MemoryError, KeyboardInterrupt and SystemExit. Only calls into code that somebody else
    wrote belong inside: our own mistakes must show their traceback.

    Args:
        what: what failed, as the beginning of a sentence.
        advice: what to do, as its end, without a full stop.
        only_memory: for a block of ours: want of memory alone becomes a sentence.

    Raises:
        ConfigError: anything that the block raised.
    """
    try:
        yield
    except (DistilleryError, MemoryError):
        raise
    except Exception as error:  # somebody else's code may raise anything
        if is_out_of_memory(error):
            raise out_of_memory(error, what) from error
        if only_memory:
            raise
        raise ConfigError(f"{what} ({named(error)}): {advice}.") from error


def named(error: Exception) -> str:
    """Type of an error, and the first line of its message that says anything, without what a terminal would obey."""
    try:
        lines = str(error).splitlines()
    except Exception:  # a message may be made by code too
        lines = []
    first = next((text for line in lines if (text := " ".join(line.split()))), "")
    shown = "".join(sign if sign.isprintable() else "?" for sign in first)[:_LONGEST].rstrip(".:")
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch found no memory, on the device or beside it."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def out_of_memory(error: Exception, what: str) -> ConfigError:
    """The sentence for memory that did not suffice.

    Args:
        error: for which `is_out_of_memory` holds.
        what: what failed, as the beginning of a sentence.
    """
    return ConfigError(f"{what} for want of memory ({named(error)}): lower the batch size, or take a machine with more memory.")
