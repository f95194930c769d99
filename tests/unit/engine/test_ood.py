"""Images of another domain: a stage names its share, the feed delivers it, and no set holds any."""

import pytest
import torch
from torch.nn import functional

from distillery.data.pool import ImagePool
from distillery.data.publishing import publish_manifest
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.feeds import LabelledFeed, MixedFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.session import Session
from distillery.errors import ConfigError
from distillery.seeding import stream
from distillery.storage import FolderStore
from distillery.students.check import check_ood
from distillery.students.kd import KD, KDConfig
from distillery.students.objective import Seen
from distillery.students.plan import StageConfig
from distillery.types import Classifier
from fakes import CPU, SPEC, plain_student
from online_loop import STAGE, loop_of

MIXED = STAGE.model_copy(update={"ood_share": 0.25})


def pool_of(value: int, count: int, labelled: bool = False) -> ImagePool:
    pool = ImagePool(SPEC)
    pool.append(torch.full((count, *SPEC.shape), value, dtype=torch.uint8), torch.arange(count) % 4 if labelled else None)
    return pool


@pytest.mark.parametrize(("batch", "share", "others"), [(16, 0.25, 4), (10, 0.25, 2), (8, 0.01, 1), (2, 0.99, 1), (7, 0.5, 4)])
def test_each_batch_has_its_share(batch: int, share: float, others: int) -> None:
    feed = MixedFeed(PoolFeed(pool_of(10, 30)), pool_of(200, 5), share, stream(0, "ood"))
    batches = list(feed.batches(batch, 3, stream(0, "order")))
    assert [int((one.images > 0.5).flatten(1).all(1).sum()) for one in batches] == [others] * 3
    assert [(len(one.images), one.labels) for one in batches] == [(batch, None)] * 3


def test_they_are_drawn_in_shuffled_passes_and_leave_the_other_stream_alone() -> None:
    ood = ImagePool(SPEC)
    ood.append(torch.arange(8, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, *SPEC.shape).clone())
    plain, order = PoolFeed(pool_of(100, 30)), stream(0, "order")
    feed = MixedFeed(plain, ood, 0.5, stream(0, "ood"))
    seen = [round(float(image.mean()) * 255) for one in feed.batches(8, 2, order) for image in one.images[4:]]
    assert sorted(seen) == list(range(8))
    assert seen != list(range(8))
    other = stream(0, "order")
    list(plain.batches(4, 2, other))
    assert torch.equal(order.get_state(), other.get_state())


def test_among_labelled_images_they_have_no_label_and_count_in_distillation_alone() -> None:
    feed = MixedFeed(LabelledFeed(pool_of(10, 30, labelled=True)), pool_of(200, 5), 0.25, stream(0, "ood"))
    (batch,) = feed.batches(8, 1, stream(0, "order"))
    assert batch.labels is not None
    assert batch.labels[6:].tolist() == [-1, -1]
    draws = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(8, 4, generator=draws), torch.randn(8, 4, generator=draws)
    terms = KD(KDConfig(soft=0.0, hard=1.0)).terms(Seen(theirs, ours, batch.labels))
    assert torch.equal(terms["ce"], functional.cross_entropy(ours[:6], batch.labels[:6]))


def test_a_stage_that_gets_none_is_refused(teacher: Classifier) -> None:
    trainer = StudentTrainer((MIXED,), teacher, plain_student(), CPU, seed=3)
    with pytest.raises(
        ConfigError, match=r"mixes ood_share = 0.25 images of another domain into its batches and is given none: give some as --ood"
    ):
        trainer.train(1, PoolFeed(pool_of(10, 30)))
    with pytest.raises(ConfigError, match=r"student.stages.1.ood_share = 0.25 mixes images .* none are given: give some as --ood"):
        check_ood((STAGE, MIXED), False)
    check_ood((STAGE, MIXED), True)


def test_they_enter_no_set_and_a_killed_run_ends_the_same(teacher: Classifier, store: FolderStore, session: Session) -> None:
    def begun(place: str, session: Session) -> tuple[object, list[torch.Tensor]]:
        loop, seen = loop_of(teacher, store.below(place), session), []
        loop.trainer = StudentTrainer((MIXED,), teacher, plain_student(), CPU, seed=3)
        loop.trainer.ood = pool_of(255, 5)
        step = loop.trainer._step
        loop.trainer._step = lambda batch, stage: (seen.append(batch.images), step(batch, stage))[1]  # type: ignore[method-assign]
        return loop, seen

    alone, seen = begun("alone", Session(Checkpoints(store.below("other")), session.progress))
    expected = alone.run()
    assert [int((images == 1).flatten(1).all(1).sum()) for images in seen] == [4] * 8
    made = SyntheticSet.open(publish_manifest(store.below("alone"), alone.pool.manifest()).uri)
    assert not bool((made.load("train").images == 255).flatten(1).all(1).any())
    killed, _ = begun("set", session)
    advance = killed.synthesizer.advance
    killed.synthesizer.advance = lambda student: advance(student) if killed.synthesizer.rounds < 4 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        killed.run()
    resumed, _ = begun("set", Session(session.checkpoints, session.progress))
    assert resumed.run() == expected
    for name, value in alone.trainer.student.state_dict().items():
        assert torch.equal(value, resumed.trainer.student.state_dict()[name])


def test_a_share_is_below_one() -> None:
    with pytest.raises(ConfigError, match="ood_share"):
        StageConfig.parse({"ood_share": 1.0}, "stage")
