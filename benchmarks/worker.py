"""A side of the speed benchmark in a process of its own, so that what one sets for its process is not given to the other."""

import multiprocessing
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from contest import OurSide, RivalSide, Scene, Side, Timing
from distillery.runtime import keep_freed_memory

RIVAL = "rival"


class Worker(AbstractContextManager["Worker"]):
    """Stands for a side; the process ends with the block.

    Args:
        scene: copied to the process.
        habit: of the reference that ours is given back; "" for none, `RIVAL` for the rival.
    """

    def __init__(self, scene: Scene, habit: str = "") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, pickle.dumps(scene), habit))
        self._process.start()
        theirs.close()
        self.name = str(self._answer())

    def train(self, steps: int) -> Timing:
        """See `Side`."""
        timing: Timing = self._ask("train", steps)
        return timing

    def synthesize(self) -> float:
        """See `Side`."""
        return float(self._ask("synthesize"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join()

    def _ask(self, verb: str, *arguments: Any) -> Any:
        self._pipe.send((verb, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError("A side of the benchmark ended before its time; its traceback stands above.") from None


def serve(pipe: Connection, pickled: bytes, habit: str) -> None:
    """Build a side and do what is asked, until nobody asks any more."""
    side = build(pickle.loads(pickled), habit)
    pipe.send(side.name)
    verbs: dict[str, Callable[..., Any]] = {"train": side.train, "synthesize": side.synthesize}
    while True:
        try:
            verb, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(verbs[verb](*arguments))


def build(scene: Scene, habit: str) -> Side:
    """The side, and its process as its program would set it."""
    torch.set_num_threads(scene.runtime.threads)
    if habit == RIVAL:
        return RivalSide(scene)
    if scene.runtime.device.type == "cpu" and habit != "malloc":
        keep_freed_memory()
    return OurSide(scene, habit)
