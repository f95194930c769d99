"""A set of a method whose target is images: drawn from its turns, a checkpoint and a line of terms a batch."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.materialize import Materialized, Materializer, SetConfig
from distillery.engine.session import Session
from distillery.errors import ConfigError
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from distillery.synthesis.protocol import Turn
from distillery.types import Classifier
from fakes import SPEC, FakeInversion

HEADER = SetHeader(shape=SPEC.shape, num_classes=4, teacher_sha256="a" * 64, provenance=Provenance(code_version="test"))
CONFIG = SetConfig(size=42, holdout=0.1, shard_images=16, max_oversampling=20)
BATCH = 12


class Stop(Exception):
    """As a signal comes."""


class Fragile(FakeInversion):
    """Dies in its third turn, after the work and before anybody has seen it."""

    def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
        turn = super().advance(student, labels)
        if self.turns == 3:
            raise Stop
        return turn


def run(teacher: Classifier, store: FolderStore, session: Session, method: FakeInversion | None = None, **change: Any) -> Materialized:
    config = CONFIG.model_copy(update=change)
    return Materializer(config, method or FakeInversion(teacher), teacher, 1, BATCH).run(store, HEADER, session)


def test_every_class_gets_its_quota_and_its_share_is_held_out(teacher: Classifier, store: FolderStore, session: Session) -> None:
    method = FakeInversion(teacher)
    result = run(teacher, store, session, method)
    found = SyntheticSet.open(publish_manifest(store, result.manifest).uri)
    train, held_out = found.load("train"), found.load("holdout")
    obtained = torch.cat([train.teacher_logits, held_out.teacher_logits]).argmax(1)
    assert torch.bincount(obtained).tolist() == [11, 10, 11, 10]
    assert len(held_out.images) == 4
    assert found.manifest.shortfall == (0, 0, 0, 0)
    assert result.numbers["drawn"] == BATCH * method.turns
    assert torch.equal(train.asked, train.asked.clamp(0, 3))
    with torch.no_grad():
        assert torch.equal(teacher(train.images.float() / 255).argmax(1), train.teacher_logits.argmax(1))


def test_it_is_asked_for_what_is_missing_and_for_nothing_else(teacher: Classifier, store: FolderStore, session: Session) -> None:
    method = FakeInversion(teacher, steps=8)
    result = run(teacher, store, session, method)
    assert result.numbers["asked_agreement"] == 1, "so that what is missing can be counted by what was asked"
    missing = torch.tensor([11, 10, 11, 10])
    for asked in method.asked:
        wanted = torch.bincount(asked, minlength=4)
        assert len(asked) == BATCH
        assert not wanted[missing == 0].any()
        if int(missing.sum()) >= BATCH:
            assert bool((wanted <= missing).all())
        missing = (missing - wanted).clamp(min=0)
    assert len(method.asked) == -(-42 // BATCH)
    assert not torch.equal(method.asked[0], method.asked[0].sort().values)


def test_each_batch_has_a_line_of_terms_and_a_checkpoint(teacher: Classifier, store: FolderStore, session: Session) -> None:
    lines: list[tuple[int, dict[str, float]]] = []
    saved: list[int] = []
    session.record = lambda numbers, number: lines.append((number, dict(numbers)))
    write = session.checkpoints.save
    session.checkpoints.save = lambda round, *rest: (saved.append(round), write(round, *rest))[1]  # type: ignore[method-assign]
    method = FakeInversion(teacher)
    run(teacher, store, session, method)
    batches = list(range(1, method.turns + 1))
    assert [number for number, _ in lines] == saved == batches
    assert [numbers["drawn"] for _, numbers in lines] == [float(BATCH * number) for number in batches]
    assert all(numbers["synthesis/label"] > 0 for _, numbers in lines)
    assert lines[-1][1]["kept"] == 42


def test_one_that_dies_in_a_batch_ends_as_one_left_alone(teacher: Classifier, store: FolderStore, session: Session) -> None:
    other = Session(Checkpoints(store.below("other")), session.progress)
    alone = run(teacher, store.below("alone"), other)
    with pytest.raises(Stop):
        run(teacher, store.below("set"), session, Fragile(teacher))
    assert session.done == 2
    assert not store.below("set").exists("manifest.json")
    again = Session(session.checkpoints, session.progress)
    resumed = run(teacher, store.below("set"), again)
    assert resumed.numbers == alone.numbers
    assert resumed.manifest == alone.manifest
    assert again.history == other.history


def test_a_bad_term_is_named_with_its_batch_and_nothing_is_published(teacher: Classifier, store: FolderStore, session: Session) -> None:
    with pytest.raises(ConfigError, match="The term 'label' of the synthesizer is not finite or above 1e\\+06 in round 3"):
        run(teacher, store, session, FakeInversion(teacher, bad_turn=3))
    assert session.done == 2
    assert not store.exists("manifest.json")


def test_too_many_batches_are_a_shortfall(
    teacher: Classifier, store: FolderStore, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(FakeInversion):
        def advance(self, student: Classifier | None, labels: Tensor | None = None) -> Turn:
            assert labels is not None
            return super().advance(student, torch.where(labels == 3, 2, labels))

    with caplog.at_level(logging.WARNING):
        result = run(teacher, store, session, Stubborn(teacher, steps=8), max_oversampling=1.5)
    assert result.numbers["drawn"] == 72  # 63 are allowed, and a batch is made whole
    assert result.numbers["shortfall"] >= 9
    assert "images after 72 were drawn, most in classes 3 (" in caplog.text
    other = Session(Checkpoints(store.below("other")), session.progress)
    with pytest.raises(ConfigError, match="The set is short of"):
        run(teacher, store.below("strict"), other, Stubborn(teacher, steps=8), max_oversampling=1.5, strict=True)
