"""A sample of what passes by only once is uniform, bounded, and the same after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.data.publishing import publish_manifest
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.sampled import FOLDER, Reservoir
from distillery.engine.session import Session
from distillery.errors import StoreError
from distillery.seeding import stream
from distillery.storage import FolderStore
from distillery.types import Classifier, ImageSpec
from online_loop import loop_of

PIXEL = ImageSpec(channels=1, height=1, width=2, mean=(0.0,), std=(1.0,))


def numbered(start: int, end: int) -> tuple[Tensor, Tensor]:
    numbers = torch.arange(start, end)
    return torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2), numbers


def offered(capacity: int, steps: tuple[int, ...], seed: int = 0) -> Reservoir:
    reservoir, start = Reservoir(PIXEL, "cpu", capacity, stream(seed, "record")), 0
    for count in steps:
        reservoir.offer(*numbered(start, start + count))
        start += count
    return reservoir


def plain(capacity: int, total: int, seed: int) -> list[int]:
    """Algorithm R as it is written down, one item after another."""
    draws, kept = stream(seed, "record"), []
    for number in range(total):
        if number < capacity:
            kept.append(number)
            continue
        place = int(float(torch.rand(1, generator=draws, dtype=torch.float64)) * (number + 1))
        if place < capacity:
            kept[place] = number
    return kept


@pytest.mark.parametrize("steps", [(3,), (10,), (7, 7), (40,), (1,) * 40, (9, 0, 31)])
def test_a_batch_at_a_time_is_one_image_at_a_time(steps: tuple[int, ...]) -> None:
    reservoir = offered(10, steps)
    assert reservoir.pool.labels.tolist() == plain(10, sum(steps), 0)
    assert torch.equal(reservoir.pool.images, numbered(0, 40)[0][reservoir.pool.labels])
    assert reservoir.seen == sum(steps)


def test_every_image_is_kept_as_often_as_any_other() -> None:
    runs, total, capacity = 2000, 24, 6
    counts = torch.zeros(total)
    for seed in range(runs):
        counts[offered(capacity, (5, 7, 12), seed).pool.labels] += 1
    expected = runs * capacity / total
    spread = (runs * (capacity / total) * (1 - capacity / total)) ** 0.5
    assert float((counts - expected).abs().max()) < 4.5 * spread


def test_changes_put_back_make_the_same_sample() -> None:
    reservoir, copy, start = Reservoir(PIXEL, "cpu", 10, stream(0, "record")), Reservoir(PIXEL, "cpu", 10, stream(0, "record")), 0
    for count in (4, 3, 9, 30, 100):
        reservoir.offer(*numbered(start, start + count))
        start += count
        copy.put_back(*reservoir.changes())
        assert torch.equal(copy.pool.labels, reservoir.pool.labels)
        assert torch.equal(copy.pool.images, reservoir.pool.images)
    assert len(reservoir.changes()[0]) == 0


def made(loop: Any, place: FolderStore) -> SyntheticSet:
    return SyntheticSet.open(publish_manifest(place, loop.pool.manifest()).uri)


@pytest.mark.parametrize("feed", ["round", "fresh"])
def test_the_set_is_a_sample_and_the_manifest_says_of_how_many(
    teacher: Classifier, store: FolderStore, session: Session, feed: str
) -> None:
    whole = loop_of(teacher, store.below("all"), Session(Checkpoints(store.below("other")), session.progress), feed)
    whole.run()
    loop = loop_of(teacher, store.below("sample"), session, feed, record=20)
    numbers = loop.run()
    every, some = made(whole, store.below("all")), made(loop, store.below("sample"))
    passed = {image.numpy().tobytes() for image in every.load("train").images}
    kept = [image.numpy().tobytes() for image in some.load("train").images]
    assert (some.manifest.images, some.manifest.holdout) == (15, 5), "a quarter of the sample is held out"
    assert some.manifest.seen == len(every.load("train").images) == numbers["synthesis/seen"]
    assert every.manifest.seen == 0
    assert len(set(kept)) == 15
    assert set(kept) <= passed
    assert sum(some.manifest.asked) == 15
    for name, value in whole.trainer.student.state_dict().items():
        assert torch.equal(value, loop.trainer.student.state_dict()[name]), "what is kept changes nothing that is learned"
    with torch.no_grad():
        shard = some.load("train")
        assert torch.allclose(teacher(shard.images.float() / 255), shard.teacher_logits, atol=1e-5)


def test_the_smallest_sample_has_one_image_of_either_kind(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, "round", record=2, holdout=0.9, rounds=3)
    loop.run()
    some = made(loop, store).manifest
    assert (some.images, some.holdout) == (1, 1)


@pytest.mark.parametrize("feed", ["round", "fresh"])
def test_a_killed_run_keeps_the_same_sample(teacher: Classifier, store: FolderStore, session: Session, feed: str) -> None:
    class Stop(Exception):
        pass

    alone = loop_of(teacher, store.below("alone"), Session(Checkpoints(store.below("other")), session.progress), feed, record=20, turns=2)
    expected = alone.run()
    killed = loop_of(teacher, store.below("set"), session, feed, record=20, turns=2)
    original = killed.synthesizer.advance

    def advance(student: Classifier | None) -> Any:
        if killed.synthesizer.rounds == 9:
            raise Stop
        return original(student)

    killed.synthesizer.advance = advance  # type: ignore[method-assign]
    with pytest.raises(Stop):
        killed.run()
    resumed = loop_of(teacher, store.below("set"), Session(session.checkpoints, session.progress), feed, record=20, turns=2)
    assert resumed.run() == expected
    assert resumed.pool.manifest() == alone.pool.manifest()
    assert resumed.selection.candidates == alone.selection.candidates
    best, expected_best = resumed.selection.best, alone.selection.best
    assert best is not None
    assert expected_best is not None
    assert (best.epoch, best.score) == (expected_best.epoch, expected_best.score)
    assert best.score.images == 5


def test_the_best_is_judged_on_the_held_out_images_of_the_end(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, "round", record=20, rounds=8)
    loop.run()
    best = loop.selection.best
    assert best is not None
    student = loop.trainer.student
    student.load_state_dict(best.weights)
    with torch.no_grad():
        answers = teacher(loop.pool.held_out.images.float() / 255).argmax(1)
        agreed = int((student(loop.pool.held_out.images.float() / 255).argmax(1) == answers).sum())
    assert (best.score.images, best.score.agreed) == (5, agreed)


def test_a_damaged_part_of_a_sample_stops_a_resume(teacher: Classifier, store: FolderStore, session: Session, tmp_path: Path) -> None:
    loop_of(teacher, store, session, "round", record=20).run()
    key = session.checkpoints.store.list(FOLDER)[0]
    session.checkpoints.store.write(key, session.checkpoints.store.read(key)[:-1])
    with pytest.raises(StoreError, match=r"file 'sample/.*' of a sample in .* is missing or damaged: delete the folder '[^']*' to start"):
        loop_of(teacher, store, Session(session.checkpoints, session.progress), "round", record=20).run()


def test_finished_work_leaves_no_sample(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop_of(teacher, store, session, "round", record=20).run()
    assert session.checkpoints.store.list(FOLDER)
    session.checkpoints.finish({"metrics": {}})
    assert not session.checkpoints.store.list(FOLDER)
