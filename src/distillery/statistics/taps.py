"""Scoped taps: read what flows into a module by its path, visit by visit, and leave nothing behind."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from distillery.errors import ConfigError

_AGAIN = ".."  # no path has two dots in a row


def visit_key(path: str, number: int) -> str:
    """Name of a module's n-th visit in one forward pass: its path the first time, `PATH..2` the second, and so on."""
    return path if number == 1 else f"{path}{_AGAIN}{number}"


def visited_path(key: str) -> str:
    """The path in a visit's name."""
    return key.partition(_AGAIN)[0]


class Taps:
    """What flowed into tapped modules during the latest forward pass."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Tensor | None, int]] = {}
        self._counts: dict[str, int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._counts.clear()

    def note(self, path: str, forward: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Take a visit down; its input is the first tensor among its arguments, of keywords that which `forward` has first."""
        tensor = next((item for item in args if isinstance(item, Tensor)), None)
        if tensor is None and kwargs:  # seldom: looking at a signature at every step of a run would cost as much as a small layer
            tensor = next((item for item in (kwargs.get(_first_parameter(forward)), *kwargs.values()) if isinstance(item, Tensor)), None)
        self._counts[path] = self._counts.get(path, 0) + 1
        self._seen[visit_key(path, self._counts[path])] = (tensor, _version(tensor))

    @property
    def keys(self) -> list[str]:
        """Names of the visits, in the order in which they took place."""
        return list(self._seen)

    def visits(self, path: str) -> list[str]:
        """Names of the visits of one module."""
        return [visit_key(path, number) for number in range(1, self._counts.get(path, 0) + 1)]

    def find(self, key: str) -> Tensor | None:
        """Input of a visit with its graph; None where there was no such visit, or its input was no tensor, empty or overwritten since."""
        tensor, version = self._seen.get(key, (None, 0))
        return tensor if tensor is not None and tensor.numel() and _version(tensor) == version else None

    def __getitem__(self, key: str) -> Tensor:
        """Input of a visit with its graph, whatever its shape.

        Raises:
            ConfigError: there was no such visit, or its input cannot be read any more.
        """
        if (tensor := self.find(key)) is None:
            what = "was not visited" if key not in self._seen else "had no input that can be read"
            raise ConfigError(
                f"The layer {key!r} {what} in a forward pass that was to read it: extract the statistics of this teacher again, and take "
                "another method where what its network runs depends on the images."
            )
        return tensor


@contextmanager
def tap_inputs(module: nn.Module, paths: Sequence[str]) -> Iterator[Taps]:
    """Collect what flows into each submodule in `paths` during the block, at every visit, however it is called.

    The taps are filled anew by every forward pass of `module` and keep the graph, so losses on them reach the images. They stand in
    the place of `forward`, behind the hooks of the network itself, and see also who calls `forward` directly. They are removed on the
    way out, also after an error: left behind they slow each later forward pass.

    Raises:
        ConfigError: a path that names no submodule.
    """
    known = dict(module.named_modules(remove_duplicate=False))
    for path in paths:
        if path not in known:
            raise ConfigError(f"There is no module at {path!r} in {type(module).__name__}: check the path against named_modules().")
    taps = Taps()
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_before_forward(known[path], partial(taps.note, path, known[path].forward)))
        stack.enter_context(_before_forward(module, lambda args, kwargs: taps.clear()))
        stack.callback(taps.clear)
        yield taps


def _first_parameter(forward: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(forward).parameters), "")
    except (TypeError, ValueError):  # a script has none
        return ""


@contextmanager
def _before_forward(module: nn.Module, look: Callable[[Sequence[Any], dict[str, Any]], None]) -> Iterator[None]:
    forward, own = module.forward, module.__dict__.get("forward")

    def looked_at(*args: Any, **kwargs: Any) -> Any:
        look(args, kwargs)
        return forward(*args, **kwargs)

    module.__dict__["forward"] = looked_at  # past `__setattr__`, which a network may have taken over
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own


def _version(tensor: Tensor | None) -> int:
    """Count of the writes into a tensor; what inference mode made has none."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version
