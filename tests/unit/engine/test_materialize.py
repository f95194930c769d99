"""Quotas by the teacher's argmax, bounds on the work, and a half-written set that goes on."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.store import SyntheticSet
from distillery.engine.materialize import Materializer, SetConfig, check_size, is_withheld, quotas
from distillery.engine.session import Session
from distillery.errors import ConfigError
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from distillery.types import Batch, Classifier
from fakes import SPEC, FakeSynthesizer

HEADER = SetHeader(shape=SPEC.shape, num_classes=4, teacher_sha256="a" * 64, provenance=Provenance(code_version="test"))
CONFIG = SetConfig(size=90, batch=20, holdout=0.1, shard_images=16, max_oversampling=20)


class Quadrants(FakeSynthesizer):
    """Shows the asked quadrant, or another one in a fixed share of images."""

    share_wrong = 0.0
    asked: list[Tensor | None]

    def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
        self.asked = [*getattr(self, "asked", []), labels]
        self.made += n
        labels = torch.randint(4, (n,), generator=self.sampling) if labels is None else labels
        wrong = torch.rand(n, generator=self.sampling) < self.share_wrong
        shown = torch.where(wrong, (labels + 1) % 4, labels)
        images = 0.2 * torch.rand(n, 1, 8, 8, generator=self.sampling)
        for index, label in enumerate(shown.tolist()):
            row, column = divmod(label, 2)
            images[index, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.7
        return Batch(images, labels)


def run(teacher: Classifier, store: FolderStore, session: Session, synthesizer: FakeSynthesizer | None = None, **change: Any) -> Any:
    config = CONFIG.model_copy(update=change)
    return Materializer(config, synthesizer or Quadrants(teacher), teacher, seed=1).run(store, HEADER, session)


def published(store: FolderStore, result: Any) -> SyntheticSet:
    return SyntheticSet.open(publish_manifest(store, result.manifest).uri)


def test_quotas_are_equal_by_the_teachers_argmax(teacher: Classifier, store: FolderStore, session: Session) -> None:
    result = run(teacher, store, session)
    made = published(store, result)
    train, held_out = made.load("train"), made.load("holdout")
    obtained = torch.cat([train.teacher_logits, held_out.teacher_logits]).argmax(1)
    assert torch.bincount(obtained).tolist() == [23, 22, 23, 22]
    assert len(held_out.images) == 9
    assert result.numbers["drawn"] > 90
    assert result.numbers["images"] == len(train.images) == 81
    assert made.manifest.shortfall == (0, 0, 0, 0)
    with torch.no_grad():
        assert torch.equal(teacher(train.images.float() / 255).argmax(1), train.teacher_logits.argmax(1))


def test_agreement_is_recorded_over_raw_and_over_kept_images(teacher: Classifier, store: FolderStore, session: Session) -> None:
    synthesizer = Quadrants(teacher)
    synthesizer.share_wrong = 0.4
    result = run(teacher, store, session, synthesizer, size=400)
    made = published(store, result)
    kept = [*made.shards("train"), *made.shards("holdout")]
    agreed = sum(int((shard.asked == shard.teacher_logits.argmax(1)).sum()) for shard in kept)
    assert result.numbers["asked_agreement"] == pytest.approx(0.6, abs=0.08)
    assert result.numbers["set_agreement"] == agreed / 400


def test_a_shortfall_is_published_with_a_warning_and_an_error_under_strict(
    teacher: Classifier, store: FolderStore, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    class Lopsided(Quadrants):
        def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
            return super().synthesize(n, torch.randint(3, (n,), generator=self.sampling))

    with caplog.at_level(logging.WARNING):
        result = run(teacher, store, session, Lopsided(teacher), max_oversampling=2)
    assert published(store, result).manifest.shortfall == (0, 0, 0, 22)
    assert result.numbers["drawn"] == 180
    assert "short of 22 of 90 images after 180 were drawn, most in classes 3 (22)" in caplog.text
    strict = store.below("strict")
    other = Session(type(session.checkpoints)(store.below("other")), session.progress)
    with pytest.raises(ConfigError, match="short of 22 of 90"):
        run(teacher, strict, other, Lopsided(teacher), max_oversampling=2, strict=True)
    assert not strict.exists("manifest.json")


def test_missing_asks_only_for_open_classes(teacher: Classifier, store: FolderStore, session: Session) -> None:
    synthesizer = Quadrants(teacher)
    run(teacher, store, session, synthesizer, labels="missing", batch=8)
    asked = [set(labels.tolist()) for labels in synthesizer.asked if labels is not None]
    assert len(asked) == len(synthesizer.asked)
    assert len(asked[-1]) < 4


@pytest.mark.parametrize("labels", ["uniform", "missing"])
def test_resume_of_a_half_written_set_is_bit_equal(teacher: Classifier, store: FolderStore, session: Session, labels: str) -> None:
    class Stop(Exception):
        pass

    class Fragile(Quadrants):
        def synthesize(self, n: int, labels: Tensor | None = None, student: Classifier | None = None) -> Batch:
            if self.made >= 80:
                raise Stop
            return super().synthesize(n, labels, student)

    other = Session(type(session.checkpoints)(store.below("other")), session.progress)
    alone = run(teacher, store.below("alone"), other, labels=labels)
    with pytest.raises(Stop):
        run(teacher, store.below("set"), session, Fragile(teacher), labels=labels)
    assert session.done >= 2
    assert not store.below("set").exists("manifest.json")
    resumed = run(teacher, store.below("set"), Session(session.checkpoints, session.progress), labels=labels)
    assert resumed.numbers == alone.numbers
    assert resumed.manifest == alone.manifest


def test_withheld_share_holds_over_small_quotas() -> None:
    classes = torch.arange(200).repeat_interleave(4)
    number = torch.arange(4).repeat(200) + 1
    assert int(is_withheld(number, classes, 0.05).sum()) == pytest.approx(40, abs=4)
    assert not is_withheld(number, classes, 0.0).any()
    one_class = is_withheld(torch.arange(1, 1001), torch.zeros(1000, dtype=torch.int64), 0.05)
    assert int(one_class.sum()) == 50
    assert is_withheld(torch.arange(1, 21), torch.zeros(20, dtype=torch.int64), 0.05).nonzero().flatten().tolist() == [19]


def test_quotas_sum_to_the_size() -> None:
    assert quotas(11, 4).tolist() == [3, 3, 3, 2]
    assert quotas(12, 4).tolist() == [3] * 4
    for size in range(1, 40):
        assert int(quotas(size, 10).sum()) == size
        assert int(quotas(size, 10).max() - quotas(size, 10).min()) <= 1


@pytest.mark.parametrize(("size", "classes"), [(10, 100), (64, 100), (164, 100), (3, 10), (1013, 1000)])
def test_what_is_left_over_is_spread_over_all_classes_and_not_given_to_the_first(size: int, classes: int) -> None:
    quota = quotas(size, classes)
    more = (quota > quota.min()).nonzero().flatten()
    assert len(more) == size % classes
    gaps = more.diff(append=more[:1] + classes)
    assert gaps.max() - gaps.min() <= 1


def test_a_set_above_its_cap_is_refused_before_work() -> None:
    with pytest.raises(ConfigError, match="size = 100 makes 6400 bytes of images, max_bytes = 6399"):
        check_size(SetConfig(size=100, max_bytes=6399), SPEC)
    check_size(SetConfig(size=100, max_bytes=6400), SPEC)
