"""The online loop: what the student was trained on is the set, whatever the feed and whatever a round returns."""

import logging
from typing import Any

import pytest
import torch

from distillery.data.publishing import publish_manifest
from distillery.data.start import StartSet
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.online import OnlineConfig, OnlineDistillation
from distillery.engine.session import Session
from distillery.errors import ConfigError, StoreError
from distillery.storage import FolderStore
from distillery.students.plan import StageConfig
from distillery.types import Classifier
from fakes import SPEC
from online_loop import HEADER, STAGE, loop_of


def test_the_published_set_is_the_pool_as_trained_on(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session)
    numbers = loop.run()
    made = SyntheticSet.open(publish_manifest(store, loop.pool.manifest()).uri)
    train, held_out = made.load("train"), made.load("holdout")
    assert torch.equal(train.images, loop.pool.train.images)
    assert torch.equal(held_out.images, loop.pool.held_out.images)
    assert torch.equal(held_out.teacher_logits, loop.pool.held_out_answers())
    assert len(train.images) + len(held_out.images) == 6 * 24
    assert len(held_out.images) == 36
    assert len(made.entries("train")) == 6
    assert numbers["synthesis/pool"] == len(train.images)
    with torch.no_grad():
        assert torch.allclose(teacher(train.images.float() / 255), train.teacher_logits, atol=1e-5)


def test_the_student_waits_for_warm_up_and_its_schedule_with_it(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session)
    loop.run()
    rates = [numbers.get("student/rate") for numbers in session.history]
    assert rates[:2] == [None, None]
    assert rates[2] == 0.1
    assert loop.trainer.steps == 8
    assert loop.trainer.epochs == 4
    assert [("holdout/agreement" in numbers) for numbers in session.history] == [False] * 2 + [True] * 4


@pytest.mark.parametrize("feed", ["pool", "round", "fresh"])
def test_feed_decides_what_the_student_sees(teacher: Classifier, store: FolderStore, session: Session, feed: str) -> None:
    loop = loop_of(teacher, store, session, feed)
    seen: list[torch.Tensor] = []
    original = loop.trainer._step
    loop.trainer._step = lambda batch, stage: (seen.append(batch.images), original(batch, stage))[1]  # type: ignore[method-assign]
    loop.run()
    pool = {image.numpy().tobytes() for image in loop.pool.train.images}
    last = {image.numpy().tobytes() for image in loop.pool.last_turn.images}
    held_out = {image.numpy().tobytes() for image in loop.pool.held_out.images}
    images = [(batch * 255).round().to(torch.uint8) for batch in seen]
    in_last = {image.numpy().tobytes() for batch in images[-2:] for image in batch}
    assert len(images) == 8
    assert not in_last & held_out
    assert in_last <= pool
    assert bool(in_last <= last) == (feed != "pool")
    assert loop.synthesizer.made == (8 * 16 if feed == "fresh" else 0)


def test_what_was_made_before_the_student_saw_any_is_not_in_its_set(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, "round")
    loop.run()
    made = SyntheticSet.open(publish_manifest(store, loop.pool.manifest()).uri)
    assert (made.manifest.images, made.manifest.holdout) == (4 * 18, 36)


def test_a_set_of_images_that_are_new_each_step_is_what_the_student_saw(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, "fresh")
    seen: list[torch.Tensor] = []
    original = loop.trainer._step
    loop.trainer._step = lambda batch, stage: (seen.append(batch.images), original(batch, stage))[1]  # type: ignore[method-assign]
    numbers = loop.run()
    made = SyntheticSet.open(publish_manifest(store, loop.pool.manifest()).uri)
    train, held_out = made.load("train"), made.load("holdout")
    assert torch.equal(train.images, (torch.cat(seen) * 255).round().to(torch.uint8))
    assert len(train.images) == numbers["synthesis/pool"] == 8 * 16
    assert sum(made.manifest.asked) > 0
    assert len(held_out.images) == 36, "a quarter of what the rounds made as they learned"
    assert not {image.numpy().tobytes() for image in held_out.images} & {image.numpy().tobytes() for image in train.images}
    assert "holdout/agreement" in numbers


@pytest.mark.parametrize("feed", ["pool", "round", "fresh"])
def test_a_method_whose_rounds_return_no_images_is_asked_for_some(
    teacher: Classifier, store: FolderStore, session: Session, feed: str
) -> None:
    loop = loop_of(teacher, store, session, feed, returns_images=False)
    loop.run()
    assert loop.trainer.steps == 8
    made = SyntheticSet.open(publish_manifest(store, loop.pool.manifest()).uri)
    withheld = STAGE.batch // 4
    assert made.manifest.holdout == 4 * withheld
    assert made.manifest.images == 4 * (2 * STAGE.batch if feed == "fresh" else STAGE.batch - withheld)


@pytest.mark.parametrize("feed", ["pool", "round", "fresh"])
def test_turns_change_what_is_booked_and_nothing_that_is_learned(
    teacher: Classifier, store: FolderStore, session: Session, feed: str
) -> None:
    one = loop_of(teacher, store.below("one"), Session(session.checkpoints, session.progress), feed, rounds=6)
    one.session.checkpoints = type(session.checkpoints)(store.below("other"))
    one.run()
    three = loop_of(teacher, store.below("three"), session, feed, rounds=2, turns=3)
    numbers = three.run()
    for name, value in one.trainer.student.state_dict().items():
        assert torch.equal(value, three.trainer.student.state_dict()[name])
    places = ((one, store.below("one")), (three, store.below("three")))
    sets = [SyntheticSet.open(publish_manifest(place, loop.pool.manifest()).uri) for loop, place in places]
    assert torch.equal(sets[0].load("train").images, sets[1].load("train").images)
    assert torch.equal(sets[0].load("holdout").images, sets[1].load("holdout").images)
    assert (len(sets[1].entries("train")), len(sets[1].entries("holdout")), session.done) == (2, 2, 2)
    by_turn = [told["synthesis/label"] for told in one.session.history]
    assert [told["synthesis/label"] for told in session.history] == pytest.approx([sum(by_turn[:3]) / 3, sum(by_turn[3:]) / 3])
    kd = [told.get("student/kd", 0.0) for told in one.session.history]
    assert [told["student/kd"] for told in session.history] == pytest.approx([kd[2], sum(kd[3:]) / 3])
    assert numbers["synthesis/pool"] == len(three.pool.train)


@pytest.mark.parametrize("stop", [0, 3, 9])
def test_a_pool_begins_with_a_set_made_before(teacher: Classifier, store: FolderStore, session: Session, stop: int) -> None:
    class Stop(Exception):
        pass

    before = loop_of(teacher, store.below("before"), Session(Checkpoints(store.below("other")), session.progress), rounds=3)
    before.run()
    start = StartSet.open(publish_manifest(store.below("before"), before.pool.manifest()).uri, HEADER.teacher_sha256, SPEC)

    def begun(place: str, session: Session) -> OnlineDistillation:
        loop = loop_of(teacher, store.below(place), session, rounds=4, turns=3, warmup=0, seed=8)
        loop.start = start
        return loop

    alone = begun("alone", Session(Checkpoints(store.below("alone too")), session.progress))
    expected = alone.run()
    assert len(alone.pool.train) == 3 * 18 + 12 * 18
    assert torch.equal(alone.pool.train.images[: 3 * 18], before.pool.train.images)
    assert torch.equal(alone.pool.held_out.images[:18], before.pool.held_out.images)
    killed = begun("set", session)
    original = killed.synthesizer.advance

    def advance(student: Classifier | None) -> Any:
        if killed.synthesizer.rounds == stop:
            raise Stop
        return original(student)

    killed.synthesizer.advance = advance  # type: ignore[method-assign]
    with pytest.raises(Stop):
        killed.run()
    resumed = begun("set", Session(session.checkpoints, session.progress))
    assert resumed.run() == expected
    assert resumed.pool.manifest() == alone.pool.manifest()


def test_closing_rounds_have_turns_too(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, rounds=2, closing=1, turns=3, warmup=3)
    loop.run()
    assert (loop.trainer.steps, loop.synthesizer.rounds, session.done) == (2 * (3 + 3), 6, 3)


def test_the_turn_that_went_bad_is_named(teacher: Classifier, store: FolderStore, session: Session) -> None:
    with pytest.raises(ConfigError, match="term 'label' of the synthesizer .* in turn 2 of round 2: "):
        loop_of(teacher, store, session, rounds=2, turns=3, bad_round=5).run()
    assert session.done == 1


@pytest.mark.parametrize("feed", ["pool", "round", "fresh"])
@pytest.mark.parametrize(("every", "turns"), [(1, 1), (2, 1), (1, 3)])
def test_resumed_is_bit_equal(teacher: Classifier, store: FolderStore, session: Session, feed: str, every: int, turns: int) -> None:
    class Stop(Exception):
        pass

    alone = loop_of(teacher, store.below("alone"), Session(session.checkpoints, session.progress), feed, turns=turns)
    alone.session.checkpoints = type(session.checkpoints)(store.below("other"))
    expected = alone.run()

    session.every = every
    killed = loop_of(teacher, store.below("set"), session, feed, turns=turns)
    original = killed.synthesizer.advance

    def advance(student: Classifier | None) -> Any:
        if killed.synthesizer.rounds == 5 * turns - 1:  # in the last turn of the fifth round
            raise Stop
        return original(student)

    killed.synthesizer.advance = advance  # type: ignore[method-assign]
    with pytest.raises(Stop):
        killed.run()
    resumed = loop_of(teacher, store.below("set"), Session(session.checkpoints, session.progress, every=every), feed, turns=turns)
    assert resumed.run() == expected
    assert resumed.pool.manifest() == alone.pool.manifest()
    for name, value in alone.trainer.student.state_dict().items():
        assert torch.equal(value, resumed.trainer.student.state_dict()[name])
    best, expected_best = resumed.selection.best, alone.selection.best
    assert best is not None
    assert expected_best is not None
    assert (best.epoch, best.score, best.compared) == (expected_best.epoch, expected_best.score, expected_best.compared)
    assert all(torch.equal(value, expected_best.weights[name]) for name, value in best.weights.items())
    assert resumed.selection.candidates == alone.selection.candidates


def test_in_closing_rounds_the_student_alone_goes_on_with_all_images(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, rounds=4, closing=2)
    seen: list[torch.Tensor] = []
    original = loop.trainer._step
    loop.trainer._step = lambda batch, stage: (seen.append(batch.images), original(batch, stage))[1]  # type: ignore[method-assign]
    numbers = loop.run()
    assert (loop.trainer.steps, loop.trainer.epochs, len(session.history)) == (8, 4, 6)
    assert len(loop.pool.train.images) == 4 * 18 == numbers["synthesis/pool"]
    assert [any(name.startswith("synthesis/") for name in told) for told in session.history] == [True] * 4 + [False] * 2
    assert [set(told) >= {"student/rate", "holdout/agreement"} for told in session.history[4:]] == [True] * 2
    assert numbers["student/rate"] == session.history[-1]["student/rate"] < session.history[3]["student/rate"]
    shards = [{image.numpy().tobytes() for image in part} for part in loop.pool.train.images.split(18)]
    closing = {image.numpy().tobytes() for batch in seen[-4:] for image in (batch * 255).round().to(torch.uint8)}
    assert all(closing & shard for shard in shards)


def test_scores_of_an_earlier_student_are_not_told_as_the_last(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop = loop_of(teacher, store, session, rounds=4, closing=1)
    loop.trainer.stages = (STAGE.model_copy(update={"epochs": 2, "steps_per_epoch": 4}),)
    numbers = loop.run()
    assert "holdout/agreement" in session.history[3]
    assert "holdout/agreement" not in numbers
    assert {"synthesis/pool", "student/rate"} <= set(numbers)


def test_closing_rounds_need_images_that_the_student_saw(teacher: Classifier, store: FolderStore, session: Session) -> None:
    with pytest.raises(ConfigError, match="rounds = 2 ended before the student could train"):
        loop_of(teacher, store, session, rounds=2, closing=2).run()
    with pytest.raises(ValueError, match="2 closing rounds bring no images, so feed the pool and not 'fresh'"):
        OnlineConfig(rounds=4, student_steps_per_turn=2, closing_rounds=2, feed="fresh")


def test_a_run_stopped_in_a_closing_round_is_bit_equal(teacher: Classifier, store: FolderStore, session: Session) -> None:
    class Stop(Exception):
        pass

    alone = loop_of(teacher, store.below("alone"), Session(session.checkpoints, session.progress), rounds=4, closing=2)
    alone.session.checkpoints = type(session.checkpoints)(store.below("other"))
    expected = alone.run()
    killed = loop_of(teacher, store.below("set"), session, rounds=4, closing=2)
    original = killed.trainer._step

    def step(batch: Any, stage: StageConfig) -> Any:
        if killed.session.done == 5:
            raise Stop
        return original(batch, stage)

    killed.trainer._step = step  # type: ignore[method-assign]
    with pytest.raises(Stop):
        killed.run()
    resumed = loop_of(teacher, store.below("set"), Session(session.checkpoints, session.progress), rounds=4, closing=2)
    assert resumed.run() == expected
    assert resumed.pool.manifest() == alone.pool.manifest()
    for name, value in alone.trainer.student.state_dict().items():
        assert torch.equal(value, resumed.trainer.student.state_dict()[name])


def test_a_damaged_shard_stops_a_resume(teacher: Classifier, store: FolderStore, session: Session) -> None:
    loop_of(teacher, store, session).run()
    key = store.list("shards")[0]
    store.write(key, store.read(key)[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        loop_of(teacher, store, Session(session.checkpoints, session.progress)).run()


def test_warm_up_longer_than_the_run_is_refused(teacher: Classifier, store: FolderStore, session: Session) -> None:
    with pytest.raises(ConfigError, match="rounds = 2 ended before the student could train"):
        loop_of(teacher, store, session, rounds=2).run()


def test_a_plan_that_the_rounds_do_not_fill_is_told(
    teacher: Classifier, store: FolderStore, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loop_of(teacher, store, session, rounds=4).run()
    assert "plan has 4 epochs, but the rounds made 2" in caplog.text
