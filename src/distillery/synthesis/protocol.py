"""The seam between a data-free method and everything that runs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from distillery.data.pool import ImagePool
from distillery.runtime import Runtime
from distillery.statistics.moments import Moments
from distillery.synthesis.share import ALONE, Share
from distillery.types import Batch, Classifier

SAMPLING = "sampling"
"""Where the state of a synthesizer holds the random stream that `synthesize` draws from: all of the state that `synthesize` changes."""


@dataclass(frozen=True)
class Ingredients:
    """What a method is built from, besides its own config.

    Attributes:
        teacher: frozen, placed on `runtime.device`. Image shape and class count are its own.
        runtime: device, precision, threads.
        seed: the method derives its random streams from it.
        moments: the teacher's statistics, where the catalog row says that the method needs them.
        turns: of the whole run, over all its rounds, for a method that follows a schedule over it.
        ood: images of another domain than the teacher's, where the catalog row says that the method needs them; they are never published.
        diagnose: measure gradient norms in the first turns; False where a turn is only timed.
        share: which generators of an ensemble these are, for a method whose row says that it can be one.
    """

    teacher: Classifier
    runtime: Runtime
    seed: int
    moments: Moments | None = None
    turns: int = 1
    ood: ImagePool | None = None
    diagnose: bool = True
    share: Share = ALONE


@dataclass(frozen=True)
class Turn:
    """One turn of learning: one `advance`.

    Attributes:
        terms: weighted loss terms by name, 0-d tensors left on the device; the engine reads them once a round, which may hold many turns.
            The term that the setting `x_weight` weighs is called `x`.
        batch: images the method made as it learned, if it makes any; float32 in [0, 1], detached.
        ready: False while the student must not train yet (warm-up).
        gradient_norms: norm of each weighted term's gradient on the images, given in the first turns and in few later ones.
        first_bad: the turn's step, counted from 1, at which each term was first not finite or far too large; 0 where it never was.
            It names a term that the turn's own value only shows as bad.
    """

    terms: Mapping[str, Tensor]
    batch: Batch | None = None
    ready: bool = True
    gradient_norms: Mapping[str, Tensor] = field(default_factory=dict)
    first_bad: Mapping[str, Tensor] = field(default_factory=dict)


class Synthesizer(Protocol):
    """A data-free method: two verbs and its state.

    A method's class is built as `Method(config, ingredients)`; `config` is the parsed section of its catalog row.

    Range: images leave a synthesizer as float32 in [0, 1], always, and the teacher as well as the student sees them so. A generator that
    ends in a BatchNorm speaks in the teacher's normalised space: it maps back by the teacher's mean and std and clamps, and gradients pass
    straight through the clamp (`generator.output`). A method of pixels in normalised space does the same with `numerics.clamp_through`.

    Conventions that no type holds, and that `ConditionalSynthesizer` and `InversionSynthesizer` keep for who derives from them:
    images that a network is to see are laid in memory by `teacher.arrange`, which a network may need and which is the fastest order;
    whoever asks for images may have switched gradients off, so what needs some opens `torch.enable_grad()`; a network's answer is
    brought to `full_precision` before a loss is taken of it; an optimizer that outlives a turn is brought back with `restore_strides`
    after its `load_state_dict`, or a resumed run may round otherwise; draws are made on the CPU from the method's own streams.
    """

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """One turn of learning. Leaves the student bit-identical: parameters, buffers, mode, requires_grad, .grad.

        Args:
            student: the opponent, for methods that play against one.
            labels: (n,) int64 classes to make images of, for methods whose target is images; None leaves them to the method.

        Raises:
            ConfigError: an online method whose terms all need a student got none.
        """
        ...

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """N fresh images. Changes no learning state but its own random stream.

        Args:
            n: how many images.
            labels: (n,) int64 classes to ask for; None draws them uniformly. A method whose catalog row has no
                classes takes no labels.
            student: the current student, for methods whose images depend on it.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the next turn depends on: nested dicts and lists of tensors, numbers, strings and booleans."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of an equal configuration."""
        ...
