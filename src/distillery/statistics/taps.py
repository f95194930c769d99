"""Scoped taps: read what flows into or out of a module by its path, visit by visit, and leave nothing behind."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, Literal

from torch import Tensor, nn

from distillery.config import nearest
from distillery.errors import ConfigError

Side = Literal["input", "output"]
"""Of a module: what flows into it, or out of it."""
_AGAIN = ".."  # no path has two dots in a row


def visit_key(path: str, number: int) -> str:
    """Name of a module's n-th visit in one forward pass: its path the first time, `PATH..2` the second, and so on."""
    return path if number == 1 else f"{path}{_AGAIN}{number}"


def visited_path(key: str) -> str:
    """The path in a visit's name."""
    return key.partition(_AGAIN)[0]


class Taps:
    """What flowed into or out of tapped modules during the latest forward pass.

    Args:
        side: which of the two.
    """

    def __init__(self, side: Side = "input") -> None:
        self.side: Side = side
        self._seen: dict[str, tuple[Tensor | None, int]] = {}
        self._counts: dict[str, int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._counts.clear()

    def note(self, path: str, tensor: Tensor | None) -> None:
        """Take a visit down."""
        self._counts[path] = self._counts.get(path, 0) + 1
        self._seen[visit_key(path, self._counts[path])] = (tensor, _version(tensor))

    def correct(self, path: str, tensor: Tensor | None) -> None:
        """Put another tensor in the place of the latest visit's: what the module's own hooks have made of it."""
        self._seen[visit_key(path, self._counts[path])] = (tensor, _version(tensor))

    @property
    def keys(self) -> list[str]:
        """Names of the visits, in the order in which they took place."""
        return list(self._seen)

    def visits(self, path: str) -> list[str]:
        """Names of the visits of one module."""
        return [visit_key(path, number) for number in range(1, self._counts.get(path, 0) + 1)]

    def find(self, key: str) -> Tensor | None:
        """The tensor of a visit with its graph; None where there was no such visit, or it was no tensor, empty or overwritten since."""
        tensor, version = self._seen.get(key, (None, 0))
        return tensor if tensor is not None and tensor.numel() and _version(tensor) == version else None

    def __getitem__(self, key: str) -> Tensor:
        """The tensor of a visit with its graph, whatever its shape.

        Raises:
            ConfigError: there was no such visit, or its tensor cannot be read any more.
        """
        if (tensor := self.find(key)) is None:
            what = "was not visited" if key not in self._seen else f"had no {self.side} that can be read"
            raise ConfigError(
                f"The layer {key!r} {what} in a forward pass that was to read it: extract the statistics of this teacher again, and take "
                "another method where what its network runs depends on the images."
            )
        return tensor


def tap_inputs(module: nn.Module, paths: Sequence[str]) -> AbstractContextManager[Taps]:
    """Collect what flows into each submodule in `paths` during the block, at every visit, however it is called.

    The taps are filled anew by every forward pass of `module` and keep the graph, so losses on them reach the images. They stand in
    the place of `forward`, behind the hooks of the network itself, and see also who calls `forward` directly. They are removed on the
    way out, also after an error: left behind they slow each later forward pass.

    A visit's input is the first tensor among its arguments, of keywords that which `forward` has first.

    Raises:
        ConfigError: a path that names no submodule.
    """
    return _tap(module, paths, "input")


def tap_outputs(module: nn.Module, paths: Sequence[str]) -> AbstractContextManager[Taps]:
    """Collect what flows out of each submodule in `paths`, as `tap_inputs` does what flows in.

    A visit's output is what the next layer gets, after the module's own forward hooks; of several tensors the first.

    Raises:
        ConfigError: a path that names no submodule.
    """
    return _tap(module, paths, "output")


@contextmanager
def _tap(module: nn.Module, paths: Sequence[str], side: Side) -> Iterator[Taps]:
    known = dict(module.named_modules(remove_duplicate=False))
    for path in paths:
        if path not in known:
            hint = nearest(path, list(known)) or "."
            raise ConfigError(f"There is no module at {path!r} in {type(module).__name__}: check the path against named_modules(){hint}")
    taps = Taps(side)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context((_note_inputs if side == "input" else _note_outputs)(taps, path, known[path]))
        stack.enter_context(_around_forward(module, lambda args, kwargs: taps.clear(), None))
        stack.callback(taps.clear)
        yield taps


def _note_inputs(taps: Taps, path: str, module: nn.Module) -> AbstractContextManager[None]:
    forward = module.forward
    return _around_forward(module, lambda args, kwargs: taps.note(path, _first_argument(forward, args, kwargs)), None)


@contextmanager
def _note_outputs(taps: Taps, path: str, module: nn.Module) -> Iterator[None]:
    with _around_forward(module, None, lambda result: taps.note(path, _first_tensor(result))):
        if not module._forward_hooks:
            yield
            return
        # registered last, so it sees what the others have made of the output
        handle = module.register_forward_hook(lambda _module, _args, result: taps.correct(path, _first_tensor(result)))
        try:
            yield
        finally:
            handle.remove()


def _first_argument(forward: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    tensor = next((item for item in args if isinstance(item, Tensor)), None)
    if tensor is None and kwargs:  # seldom: looking at a signature at every step of a run would cost as much as a small layer
        tensor = next((item for item in (kwargs.get(_first_parameter(forward)), *kwargs.values()) if isinstance(item, Tensor)), None)
    return tensor


def _first_parameter(forward: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(forward).parameters), "")
    except (TypeError, ValueError):  # a script has none
        return ""


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    items = result.values() if isinstance(result, Mapping) else result if isinstance(result, Sequence) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


@contextmanager
def _around_forward(
    module: nn.Module, before: Callable[[Sequence[Any], dict[str, Any]], None] | None, after: Callable[[Any], None] | None
) -> Iterator[None]:
    forward, own = module.forward, module.__dict__.get("forward")

    @wraps(forward, assigned=(), updated=())  # so that another tap on the same module still reads its signature
    def looked_at(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(args, kwargs)
        result = forward(*args, **kwargs)
        if after is not None:
            after(result)
        return result

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
