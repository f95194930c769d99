"""Which students of a run are kept beside the last one: the best on held-out images, and snapshots of every n-th epoch."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from distillery.storage import Store
from distillery.types import Classifier

SCORE = "agreement"
"""The number of a validation that decides which epoch was the best."""


class Selection:
    """The best student so far and the snapshots taken so far.

    Args:
        store: snapshots lie in its `snapshots/`.
        keep_epochs: epochs between two snapshots; 0 takes none.
    """

    def __init__(self, store: Store, keep_epochs: int = 0) -> None:
        self.best_epoch = 0
        self.best_score = -1.0
        self.snapshots: list[int] = []
        self._weights: dict[str, Tensor] = {}
        self._store = store
        self._keep_epochs = keep_epochs

    def offer(self, epoch: int, numbers: Mapping[str, float], student: Classifier) -> None:
        """Look at the student after an epoch.

        Args:
            epoch: finished epochs, 1 or more.
            numbers: a validation's; without `agreement` the student cannot become the best.
            student: copied where it is kept.
        """
        if numbers.get(SCORE, -1.0) > self.best_score:
            self.best_epoch, self.best_score = epoch, numbers[SCORE]
            self._weights = weights_of(student)
        last = self.snapshots[-1] if self.snapshots else 0
        if self._keep_epochs and epoch // self._keep_epochs > last // self._keep_epochs:
            self._store.write(_key(epoch), save(weights_of(student)))
            self.snapshots.append(epoch)

    def best(self) -> dict[str, Tensor]:
        """Weights of the best student, on the CPU; empty where nothing was ever validated."""
        return self._weights

    def snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Weights of the student after that epoch, on the CPU."""
        return load(self._store.read(_key(epoch)))

    def drop_snapshots(self) -> None:
        """Remove the snapshots from the store, once their weights are published elsewhere."""
        for epoch in self.snapshots:
            self._store.delete(_key(epoch))

    def state_dict(self) -> dict[str, Any]:
        """The best student and the epochs of the snapshots, which themselves are in the store."""
        return {"epoch": self.best_epoch, "score": self.best_score, "weights": self._weights, "snapshots": self.snapshots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.best_epoch, self.best_score = int(state["epoch"]), float(state["score"])
        self._weights, self.snapshots = dict(state["weights"]), list(state["snapshots"])


def weights_of(student: Classifier) -> dict[str, Tensor]:
    """A copy of the student's parameters and buffers, contiguous and on the CPU."""
    return {name: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach()) for name, value in student.state_dict().items()}


def _key(epoch: int) -> str:
    return f"snapshots/{epoch:06d}.safetensors"
