"""Scoped eval mode: measure a network without moving its statistics, and leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode during the block and give every submodule its own mode back, also after an error."""
    before = [(child, child.training) for module in modules for child in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for child, training in before:
            child.training = training
