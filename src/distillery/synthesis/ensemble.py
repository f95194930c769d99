"""The shares of an ensemble as one synthesizer to draw from: each class comes from the generator that owns it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distillery.seeding import stream
from distillery.synthesis.common import check_labels, draw_labels
from distillery.synthesis.protocol import SAMPLING, Ingredients, Synthesizer, Turn
from distillery.synthesis.share import Share
from distillery.types import Batch, Classifier


class Ensemble:
    """Trained shares of one ensemble, as a `Synthesizer` that learns no more.

    Each share draws from its own random stream, in the order in which its labels are asked for, so that what one of them makes depends on
    no other.

    Args:
        parts: share -> its synthesizer, trained; together they hold every generator once.
        ingredients: what they were built from; the classes of a draw without labels come from its seed.
    """

    def __init__(self, parts: Sequence[tuple[Share, Synthesizer]], ingredients: Ingredients) -> None:
        self._num_classes = ingredients.teacher.num_classes
        self._device = ingredients.runtime.device
        self._shape = ingredients.teacher.spec.shape
        self._parts = [synthesizer for _, synthesizer in parts]
        self._owner = torch.empty(self._num_classes, dtype=torch.int64)
        for number, (share, _) in enumerate(parts):
            owned = share.classes(self._num_classes)
            self._owner[owned[0].start : owned[-1].stop] = number
        self._draws = stream(ingredients.seed, "ensemble", SAMPLING)

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """Refused: each share was trained by itself.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the shares of an ensemble are trained each by itself")

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N images, labels drawn uniformly over all classes where none are asked for; each of the share that owns its class."""
        if labels is not None:
            check_labels(labels, n, self._num_classes)
        else:
            labels = draw_labels(n, self._num_classes, "uniform", self._draws)
        labels = labels.to(self._device)
        owner = self._owner.to(self._device)[labels]
        images = torch.empty(n, *self._shape, device=self._device)
        for number, part in enumerate(self._parts):
            mine = (owner == number).nonzero().flatten()
            if len(mine):
                # in the order asked, from the share's own stream: which other shares are asked at the same time changes nothing
                images[mine] = part.synthesize(len(mine), labels[mine], student).images
        return Batch(images, labels)

    def state_dict(self) -> dict[str, Any]:
        """The random streams alone: nothing else changes any more, and the shares' bundles hold the rest."""
        return {SAMPLING: self._draws.get_state(), "parts": [part.state_dict()[SAMPLING] for part in self._parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of an ensemble of the same shares."""
        self._draws.set_state(state[SAMPLING])
        for part, drawn in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict({**part.state_dict(), SAMPLING: drawn})
