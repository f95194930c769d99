"""Paths of a network's modules, for people who misspell them."""

import difflib

from distillery.types import Classifier

_SHOWN = 3


def near_paths(path: str, classifier: Classifier) -> str:
    """The paths of a classifier that are nearest to one that is not there, as the end of a sentence without its full stop."""
    known = [name for name, _ in classifier.named_modules(remove_duplicate=False) if name]
    near = difflib.get_close_matches(path, known, n=_SHOWN, cutoff=0.6) or known[1 : 1 + _SHOWN] or known
    return f"near it are {', '.join(near)}"
