"""What a mistake on purpose is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: what went wrong, in words.
        file: where.
        old: text that stands there exactly once.
        new: what it becomes.
        tests: the file that must notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
