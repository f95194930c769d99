"""Which students of a run are kept beside the last one: the best on held-out images, and snapshots of every n-th epoch.

Held-out images of an online run grow with the rounds, so that a score of an early epoch and one of a late epoch are not on one scale.
A few candidates are therefore carried along: each time an epoch is looked at, they are judged on the images that came since, and the
worst goes. At the end they, the snapshots and the last student are judged on the same images, and only then one of them is the best.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load, save
from torch import Tensor

from distillery.errors import StoreError
from distillery.models.versions import Weights
from distillery.provenance import sha256_bytes
from distillery.storage import Store
from distillery.types import Classifier

CANDIDATES = 5
"""Students that wait for the final images. They lie in the store like snapshots, so this bounds what a long schedule takes there; five
tell a good epoch from a lucky one, and weigh about what one checkpoint does (student, its momentum, generator and its moments)."""
_FOLDER = "snapshots"


class Score(NamedTuple):
    """How a student follows its teacher on some held-out images; sums, so that two parts can be put together.

    Attributes:
        images: how many; 0 where none are held out.
        agreed: of them with the teacher's argmax.
        divergence: sum over them of KL(T || S) in nats.
    """

    images: int = 0
    agreed: int = 0
    divergence: float = 0.0

    @property
    def agreement(self) -> float:
        """Share of images on which both agree."""
        return self.agreed / max(self.images, 1)

    @property
    def kl(self) -> float:
        """Mean KL(T || S) over the images, in nats."""
        return self.divergence / max(self.images, 1)

    def joined(self, other: "Score") -> "Score":
        """Of both parts together."""
        return Score(self.images + other.images, self.agreed + other.agreed, self.divergence + other.divergence)


Judge = Callable[[Classifier, int], Score]
"""Scores a student on the held-out images from the given one on; images that were once there stay in place."""


@dataclass(frozen=True)
class Kept:
    """A student that lies in the store.

    Attributes:
        epoch: finished epochs.
        sha256: of its file.
        score: on the held-out images that it was judged on so far.
        at_once: whether that was in one go: put together from parts, rounding differs in the last digits.
    """

    epoch: int
    sha256: str
    score: Score = Score()
    at_once: bool = True

    @property
    def rank(self) -> tuple[float, float, int]:
        """More is better: agreement; it saturates, so then KL, the less the better; then the later epoch."""
        return self.score.agreement, -self.score.kl, self.epoch

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"epoch": self.epoch, "sha256": self.sha256, "score": list(self.score), "at_once": self.at_once}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """From `state_dict()`."""
        return cls(int(state["epoch"]), str(state["sha256"]), Score(*state["score"]), bool(state["at_once"]))


@dataclass(frozen=True)
class Best:
    """The student that a finished run calls its best.

    Attributes:
        epoch: after which it stood there.
        score: on the final held-out images.
        compared: students judged on the same images, itself and the last one among them.
        weights: on the CPU.
    """

    epoch: int
    score: Score
    compared: int
    weights: dict[str, Tensor]


class Selection:
    """The candidates and snapshots so far, and in the end the best student.

    Args:
        store: students lie in its `snapshots/`, each under the hash of its bytes.
        judge: scores a student; None where nothing is held out, and then no student is the best.
        keep_epochs: epochs between two snapshots; 0 takes none.

    Attributes:
        candidates: best first, as of the last look.
        snapshots: by epoch.
        best: None until `conclude`, and after it where nothing was held out.
    """

    def __init__(self, store: Store, judge: Judge | None = None, keep_epochs: int = 0) -> None:
        self.candidates: list[Kept] = []
        self.snapshots: list[Kept] = []
        self.best: Best | None = None
        self._store = store
        self._judge = judge
        self._keep_epochs = keep_epochs
        self._weights: dict[str, dict[str, Tensor]] = {}  # of the candidates, so that a look reads no file
        self._written: set[str] = set()

    def look(self, epoch: int, student: Classifier) -> dict[str, float]:
        """Look at the student after an epoch.

        Args:
            epoch: finished epochs, 1 or more.
            student: copied where it is kept.

        Returns:
            Its `agreement` and `kl` on the held-out images of this moment; nothing where there are none.
        """
        score = self._judge(student, 0) if self._judge else Score()
        if score.images:
            self._consider(epoch, score, student)
        last = self.snapshots[-1].epoch if self.snapshots else 0
        if self._keep_epochs and epoch // self._keep_epochs > last // self._keep_epochs:
            self.snapshots.append(Kept(epoch, self._keep(save(weights_of(student))), score))
        return {"agreement": score.agreement, "kl": score.kl} if score.images else {}

    def conclude(self, epoch: int, student: Classifier) -> None:
        """Choose the best: every candidate, every snapshot and the last student, judged on the same final images.

        Args:
            epoch: finished epochs.
            student: as it is after the last step.
        """
        score = self._judge(student, 0) if self._judge else Score()
        if not score.images:
            return
        weights = weights_of(student)
        last = Kept(epoch, sha256_bytes(save(weights)), score)
        # students with equal bytes are one, called by its latest epoch
        contenders = {kept.sha256: kept for kept in sorted([*self.snapshots, *self.candidates], key=lambda kept: kept.epoch)}
        contenders |= {last.sha256: last}
        judged = [self._brought_up(kept, student, score.images, anew=True) for kept in contenders.values()]
        best = max(judged, key=lambda kept: (*kept.rank, kept is last))
        self.best = Best(best.epoch, best.score, len(judged), weights if best is last else self.weights(best))

    def forget_scores(self) -> None:
        """The held-out images that were judged on are no longer all there: judge everybody anew when it is asked for."""
        self.candidates, self.snapshots = (
            [replace(kept, score=Score(), at_once=True) for kept in group] for group in (self.candidates, self.snapshots)
        )

    def weights(self, kept: Kept) -> dict[str, Tensor]:
        """Of a student that lies in the store, on the CPU.

        Raises:
            StoreError: its file is gone or damaged.
        """
        if kept.sha256 in self._weights:
            return self._weights[kept.sha256]
        key = _key(kept.sha256)
        data = self._store.read(key) if self._store.exists(key) else b""
        if sha256_bytes(data) != kept.sha256:
            place = f"{kept.epoch} in {self._store.uri!r}"
            raise StoreError(f"The student of epoch {place} is missing or damaged: delete that folder to start this step anew.")
        return load(data)

    def sweep(self) -> None:
        """Remove the files of those that are kept no longer, once a checkpoint is written that does not name them."""
        self._delete(self._written - self._named())

    def state_dict(self) -> dict[str, Any]:
        """Who is kept and how they were judged; their weights are in the store."""
        groups = {"candidates": self.candidates, "snapshots": self.snapshots}
        return {name: [kept.state_dict() for kept in group] for name, group in groups.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; files that a killed run wrote after it are removed."""
        self.candidates = [Kept.of(kept) for kept in state["candidates"]]
        self.snapshots = [Kept.of(kept) for kept in state["snapshots"]]
        self._weights = {kept.sha256: self.weights(kept) for kept in self.candidates}
        self._written = self._found() | self._named()
        self.sweep()

    def _consider(self, epoch: int, score: Score, student: Classifier) -> None:
        """Judge the candidates on the images that are new, and take the student in where it is not the worst of too many."""
        self.candidates = _ranked(self._brought_up(kept, student, score.images) for kept in self.candidates)
        # asked first: the file of one that goes at once is never written
        if len(self.candidates) == CANDIDATES and Kept(epoch, "", score).rank < self.candidates[-1].rank:
            return
        weights = weights_of(student)
        new = Kept(epoch, self._keep(save(weights)), score)
        self._weights.setdefault(new.sha256, weights)
        self.candidates = _ranked([*self.candidates, new])[:CANDIDATES]
        self._weights = {kept.sha256: self._weights[kept.sha256] for kept in self.candidates}

    def _brought_up(self, kept: Kept, like: Classifier, images: int, anew: bool = False) -> Kept:
        """The same student judged on all images.

        Args:
            kept: to be judged.
            like: a student of this architecture; only copied.
            images: held out by now.
            anew: in one go, also where the parts are known.
        """
        assert self._judge is not None
        if kept.score.images == images and (kept.at_once or not anew):
            return kept
        student = copy.deepcopy(like)
        student.load_state_dict(Weights.written_by(student, self.weights(kept)))
        if anew:
            return replace(kept, score=self._judge(student, 0), at_once=True)
        return replace(kept, score=kept.score.joined(self._judge(student, kept.score.images)), at_once=False)

    def _keep(self, data: bytes) -> str:
        """Write a student's file; its hash."""
        digest = sha256_bytes(data)
        if digest not in self._written:
            self._store.write(_key(digest), data)
            self._written.add(digest)
        return digest

    def _named(self) -> set[str]:
        return {kept.sha256 for kept in (*self.candidates, *self.snapshots)}

    def _found(self) -> set[str]:
        """What lies in the store; of a remote one it is not asked, for no lock reaches the other machines that write there."""
        return set() if self._store.remote else {_digest(key) for key in self._store.list(_FOLDER)}

    def _delete(self, digests: Iterable[str]) -> None:
        for digest in sorted(digests):
            self._store.delete(_key(digest))
            self._written.discard(digest)


def weights_of(student: Classifier) -> dict[str, Tensor]:
    """A copy of the student's parameters and buffers, contiguous and on the CPU."""
    return {name: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach()) for name, value in student.state_dict().items()}


def _ranked(candidates: Iterable[Kept]) -> list[Kept]:
    """Best first."""
    return sorted(candidates, key=lambda kept: kept.rank, reverse=True)


def _key(digest: str) -> str:
    return f"{_FOLDER}/{digest}.safetensors"


def _digest(key: str) -> str:
    return key.removeprefix(f"{_FOLDER}/").removesuffix(".safetensors")
