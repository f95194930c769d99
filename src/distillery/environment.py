"""Environment variables, which is how a pipeline talks to its steps."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(chosen: Mapping[str, str]) -> Iterator[None]:
    """Set variables within the block and put back what was there; an empty value leaves what is there."""
    given = {name: value for name, value in chosen.items() if value}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
