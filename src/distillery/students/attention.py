"""Feature distillation by attention: the student learns where its teacher's stages look."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from distillery.errors import ConfigError
from distillery.losses.features import attention_distance, common_size
from distillery.students.config import ObjectiveConfig
from distillery.students.layers import check_maps, check_task, matched_ends
from distillery.students.objective import Objective, Seen, Tap, TapPair
from distillery.types import Classifier


class AttentionConfig(ObjectiveConfig):
    """Settings of attention transfer.

    Attributes:
        pairs: (layer of the teacher, layer of the student) of each map; none are the ends of all stages but the first, which is the stem
            where there is one.
        weight: beta, of the sum over pairs.
    """

    name: Literal["attention"] = "attention"
    pairs: tuple[tuple[str, str], ...] = ()
    weight: float = Field(default=1000.0, ge=0)


class Attention(Objective):
    """L = weight * sum_i mean (A_i^T - A_i^S)^2, A as in `losses.features.attention_map`: widths need not be equal, nor sizes.

    It says nothing of answers, so it stands beside `kd` or `cross_entropy`.

    Source: Zagoruyko & Komodakis, arXiv:1612.03928, section 3.1; see `losses.features.attention_distance` for what differs.
    """

    def __init__(self, config: AttentionConfig) -> None:
        self.config = config

    def taps(self, teacher: Classifier, student: Classifier) -> TapPair:
        """One layer of each network a pair."""
        check_task("attention", teacher, student)
        if self.config.pairs:
            self._pairs = [(Tap.parse(theirs), Tap.parse(ours)) for theirs, ours in self.config.pairs]
        else:
            theirs, ours = matched_ends(teacher, student, "pairs")
            first = 1 if len(theirs) > 1 else 0
            self._pairs = list(zip(theirs[first:], ours[first:], strict=True))
        return TapPair(tuple(pair[0] for pair in self._pairs), tuple(pair[1] for pair in self._pairs))

    def check(self, seen: Seen) -> None:
        """Refuse features that are no maps, and pairs that are compared in one place, which all look at that."""
        check_maps("attention", seen)
        single = [(theirs, ours) for theirs, ours in self._pairs if common_size(seen.teacher[theirs], seen.student[ours]) == (1, 1)]
        if single and (self.config.pairs or len(single) == len(self._pairs)):
            theirs, ours = single[0]
            raise ConfigError(
                f"attention compares where layers look, but {theirs} of the teacher and {ours} of the student meet in maps of 1x1, which "
                "have one place to look at: name larger maps by pairs, or take fitnets or fsp."
            )

    def terms(self, seen: Seen) -> dict[str, Tensor]:
        """`attention`."""
        total = seen.student_logits.new_zeros(())
        for theirs, ours in self._pairs:
            total = total + attention_distance(seen.teacher[theirs], seen.student[ours])
        return {"attention": self.config.weight * total}
