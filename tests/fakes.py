"""Small stand-ins that several tests share: a teacher of one second, and a synthesizer of one tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.models.catalog import Architecture, build_network
from distillery.runtime import Runtime
from distillery.seeding import seeded, stream
from distillery.synthesis.protocol import Turn
from distillery.types import Batch, Classifier, ImageSpec

CPU = Runtime(torch.device("cpu"), "float32", 1)
SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.3,))
CLASSES = ("top left", "top right", "bottom left", "bottom right")
TINY = Architecture(name="wrn_10_1", arguments={"base_width": 8})  # narrower, torch 2.15 corrupts memory: see docs/journal.md


def quadrants(n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) with one bright quadrant each, and which one it is."""
    labels = torch.randint(4, (n,), generator=draws)
    images = 0.3 * torch.rand(n, 1, 8, 8, generator=draws)
    for index, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[index, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.6
    return images, labels


def tiny_teacher(steps: int = 60) -> Classifier:
    """A WRN-10-1 of width 8 that tells four quadrants apart; frozen."""
    with seeded(0, "teacher"):
        classifier = Classifier(build_network(TINY, SPEC, len(CLASSES)), SPEC, CLASSES)
    draws = stream(0, "quadrants")
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(steps):
        images, labels = quadrants(64, draws)
        optimizer.zero_grad()
        functional.cross_entropy(classifier(images), labels).backward()
        optimizer.step()
    return classifier.freeze()


def plain_student(seed: int = 0, dropout: float = 0.0) -> Classifier:
    """A student of two convolutions with BatchNorm, placed as a run would place it."""
    with seeded(seed, "student"):
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * 16, 4),
        )
    return CPU.place(Classifier(network, SPEC, CLASSES))


def taps_left(module: nn.Module) -> int:
    """How many parts of a network still have a tap."""
    return sum("forward" in child.__dict__ for child in module.modules())


class FakeSynthesizer:
    """Learns one picture a class; a `Synthesizer` without a network.

    Args:
        teacher: frozen.
        seed: of its random streams.
        warmup: rounds that are not ready.
        returns_images: whether a round has a batch.
        bad_round: round (from 1) whose term is not finite; 0 is never.
    """

    def __init__(self, teacher: Classifier, seed: int = 0, warmup: int = 0, returns_images: bool = True, bad_round: int = 0) -> None:
        self.teacher = teacher
        self.warmup = warmup
        self.returns_images = returns_images
        self.bad_round = bad_round
        self.rounds = 0
        self.batch = 24
        self.made = 0
        self.learning = stream(seed, "fake", "learning")
        self.sampling = stream(seed, "fake", "sampling")
        self.pictures = torch.randn(teacher.num_classes, *teacher.spec.shape, generator=self.learning).requires_grad_()
        self.optimizer = torch.optim.Adam([self.pictures], lr=0.1)

    def advance(self, student: Classifier | None, labels: torch.Tensor | None = None) -> Turn:
        """One step on the teacher's cross-entropy."""
        self.rounds += 1
        batch, images = self._make(self.batch, None, self.learning)
        assert batch.labels is not None
        loss = functional.cross_entropy(self.teacher(images), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        term = loss.detach() / (0.0 if self.rounds == self.bad_round else 1.0)
        return Turn({"label": term}, batch if self.returns_images else None, self.rounds > self.warmup, {"label": term})

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """n noisy pictures."""
        self.made += n
        return self._make(n, labels, self.sampling)[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "pictures": self.pictures.detach(),
            "optimizer": self.optimizer.state_dict(),
            "rounds": self.rounds,
            "streams": [self.learning.get_state(), self.sampling.get_state()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue."""
        self.pictures.data.copy_(state["pictures"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rounds = state["rounds"]
        self.learning.set_state(state["streams"][0])
        self.sampling.set_state(state["streams"][1])

    def _make(self, n: int, labels: Tensor | None, draws: torch.Generator) -> tuple[Batch, Tensor]:
        labels = torch.randint(self.teacher.num_classes, (n,), generator=draws) if labels is None else labels
        images = torch.sigmoid(self.pictures[labels] + torch.randn(n, *self.teacher.spec.shape, generator=draws))
        return Batch(images.detach(), labels), images


class FakeInversion:
    """Makes images from nothing, so its target is images: a few steps on the pixels of each batch; a `Synthesizer` without a network.

    Args:
        teacher: frozen.
        seed: of its random stream.
        steps: on each batch; with few of them the teacher often sees another class than the one that was asked for.
        bad_turn: turn (from 1) whose term is not finite; 0 is never.
    """

    def __init__(self, teacher: Classifier, seed: int = 0, steps: int = 3, bad_turn: int = 0) -> None:
        self.teacher = teacher
        self.steps = steps
        self.bad_turn = bad_turn
        self.turns = 0
        self.asked: list[Tensor] = []
        self.draws = stream(seed, "inversion")

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        """One batch."""
        labels = torch.randint(self.teacher.num_classes, (8,), generator=self.draws) if labels is None else labels
        self.turns += 1
        self.asked.append(labels)
        pixels = torch.randn(len(labels), *self.teacher.spec.shape, generator=self.draws).requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=1.0)
        for _ in range(self.steps):
            loss = functional.cross_entropy(self.teacher(pixels.sigmoid()), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        term = loss.detach() / (0.0 if self.turns == self.bad_turn else 1.0)
        return Turn({"label": term}, Batch(pixels.detach().sigmoid(), labels))

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        """There is nothing to sample."""
        raise AssertionError("a set is drawn from advance")

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {"turns": self.turns, "draws": self.draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue."""
        self.turns = state["turns"]
        self.draws.set_state(state["draws"])
