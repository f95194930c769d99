"""The trainer: exact steps, exact resume, nothing touched outside training, and a stop where a term goes bad."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import distillery.engine.fit as fit_module
from distillery.data.augment import AugmentConfig
from distillery.data.pool import ImagePool
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.feeds import Feed, FreshFeed, LabelledFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.offline import StudentFit, train_synthesizer
from distillery.engine.selection import Score, Selection
from distillery.engine.session import Session
from distillery.errors import ConfigError
from distillery.optim.schedules import ScheduleConfig
from distillery.seeding import stream
from distillery.storage import FolderStore
from distillery.students.plan import OptimizerConfig, StageConfig
from distillery.types import Batch, Classifier
from fakes import CPU, SPEC, FakeSynthesizer, plain_student, quadrants

STAGE = StageConfig(
    objectives=[{"name": "kd", "temperature": 4}],
    epochs=4,
    steps_per_epoch=3,
    batch=16,
    augment=AugmentConfig(crop_padding=1, flip=True),
)


def pool_of(n: int = 50) -> ImagePool:
    images, labels = quadrants(n, stream(0, "pool"))
    pool = ImagePool(SPEC)
    pool.append(images, labels)
    return pool


def trainer_of(teacher: Classifier, *stages: StageConfig, **student: Any) -> StudentTrainer:
    return StudentTrainer(stages or (STAGE,), teacher, plain_student(**student), CPU, seed=3)


def bits(student: Classifier) -> dict[str, Any]:
    tensors = {name: value.clone() for name, value in student.state_dict().items()}
    flags = {name: (value.requires_grad, value.grad) for name, value in student.named_parameters()}
    return {"tensors": tensors, "flags": flags, "modes": [module.training for module in student.modules()]}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["flags"] == other["flags"]
    assert one["modes"] == other["modes"]
    assert all(torch.equal(one["tensors"][name], other["tensors"][name]) for name in one["tensors"])


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), OptimizerConfig(name="adam", rate=0.01)])
def test_resumed_is_bit_equal_with_dropout_and_channels_last(teacher: Classifier, tmp_path: Path, optimizer: OptimizerConfig) -> None:
    stage = STAGE.model_copy(update={"optimizer": optimizer})
    alone = trainer_of(teacher, stage, dropout=0.3)
    alone.train(5, PoolFeed(pool_of()))
    checkpoints = Checkpoints(FolderStore(tmp_path))
    checkpoints.save(1, alone.state_dict())
    alone.train(4, PoolFeed(pool_of()))

    resumed = trainer_of(teacher, stage, dropout=0.3)
    torch.randn(100)  # the global stream stands elsewhere in another process
    found = checkpoints.load()
    assert found is not None
    resumed.load_state_dict(found[1])
    resumed.train(4, PoolFeed(pool_of()))
    assert_same(bits(alone.student), bits(resumed.student))
    weight = resumed.student.network[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    for one, other in zip(alone._optimizer.state.values(), resumed._optimizer.state.values(), strict=True):
        for name in one:
            assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name]))


def test_restored_momentum_takes_its_parameters_strides(teacher: Classifier) -> None:
    trainer = trainer_of(teacher)
    trainer.train(2, PoolFeed(pool_of()))
    state = trainer.state_dict()
    for entry in state["optimizer"]["state"].values():
        entry["momentum_buffer"] = entry["momentum_buffer"].contiguous()
    restored = trainer_of(teacher)
    restored.load_state_dict(state)
    for parameter, entry in restored._optimizer.state.items():
        assert entry["momentum_buffer"].stride() == parameter.stride()
    trainer.train(3, PoolFeed(pool_of()))
    restored.train(3, PoolFeed(pool_of()))
    assert_same(bits(trainer.student), bits(restored.student))


def test_the_same_steps_in_other_pieces_give_the_same_student_where_passes_agree(teacher: Classifier) -> None:
    """Terms, rates and streams depend on the steps taken, not on how calls cut them."""
    whole, pieces = trainer_of(teacher), trainer_of(teacher)
    pool = pool_of(16)  # one batch a pass, so that a call never ends within a pass
    whole.train(12, PoolFeed(pool))
    for count in (1, 5, 6):
        pieces.train(count, PoolFeed(pool))
    assert_same(bits(whole.student), bits(pieces.student))


def test_between_trainings_the_student_is_left_alone(teacher: Classifier) -> None:
    trainer = trainer_of(teacher)
    trainer.train(3, PoolFeed(pool_of()))
    before = bits(trainer.student)
    assert not any(before["modes"])
    assert all(grad is None for _, grad in before["flags"].values())
    synthesizer = FakeSynthesizer(teacher)
    synthesizer.advance(trainer.student)
    synthesizer.synthesize(4, student=trainer.student)
    assert_same(before, bits(trainer.student))


def test_teacher_is_left_alone(teacher: Classifier) -> None:
    before = bits(teacher)
    trainer_of(teacher).train(3, PoolFeed(pool_of()))
    assert_same(before, bits(teacher))


def test_rate_falls_once_an_epoch_and_stays_at_its_minimum(teacher: Classifier) -> None:
    stage = STAGE.model_copy(update={"schedule": ScheduleConfig(minimum=0.01), "epochs": 2})
    trainer = trainer_of(teacher, stage)
    rates = [trainer.train(1, PoolFeed(pool_of()))["rate"] for _ in range(8)]
    assert rates == pytest.approx([0.1] * 3 + [0.055] * 3 + [0.01] * 2)
    assert trainer.epochs == 2


def test_a_schedule_by_steps_falls_at_every_step_of_its_stage(teacher: Classifier) -> None:
    first = STAGE.model_copy(update={"schedule": ScheduleConfig(by="step", minimum=0.02), "epochs": 2})
    second = STAGE.model_copy(update={"schedule": ScheduleConfig(name="step", by="step", milestones=(1, 4)), "epochs": 2})
    trainer = trainer_of(teacher, first, second)
    rates = [trainer.train(1, PoolFeed(pool_of()))["rate"] for _ in range(13)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6, eta_min=0.02)
    expected = []
    for _ in range(6):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert rates == pytest.approx([*expected, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001])
    whole = trainer_of(teacher, first, second)
    assert whole.train(8, PoolFeed(pool_of()))["rate"] == pytest.approx(0.01), "a call over several steps and a stage's end as well"


def test_a_stage_trains_only_its_modules_with_an_optimizer_of_its_own(teacher: Classifier) -> None:
    first = STAGE.model_copy(update={"trains": ("network.7",), "epochs": 1})
    trainer = trainer_of(teacher, first, STAGE.model_copy(update={"epochs": 1}))
    before = bits(trainer.student)["tensors"]
    trainer.train(3, PoolFeed(pool_of()))
    after = bits(trainer.student)["tensors"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.7.weight", "network.7.bias"}, "the BatchNorm outside the trained part must not move either"
    assert trainer.position.stage == 1
    trainer.train(1, PoolFeed(pool_of()))
    moved = bits(trainer.student)["tensors"]
    assert all(not torch.equal(after[name], moved[name]) for name in after if name.startswith("network.0"))


def test_a_stage_trains_several_parts_and_leaves_the_modes_of_the_rest(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, STAGE.model_copy(update={"trains": ("network.7", "network.1")}))
    before = bits(trainer.student)["tensors"]
    modes: list[list[str]] = []
    trainer.student.network[7].register_forward_hook(
        lambda *args: modes.append([name for name, module in trainer.student.named_modules() if module.training])
    )
    trainer.train(1, PoolFeed(pool_of()))
    after = bits(trainer.student)["tensors"]
    statistics = {"network.1.running_mean", "network.1.running_var", "network.1.num_batches_tracked"}
    weights = {f"network.{number}.{name}" for number in (1, 7) for name in ("weight", "bias")}
    assert {name for name in before if not torch.equal(before[name], after[name])} == weights | statistics
    assert modes == [["network.1", "network.7"]]


def test_unknown_module_to_train_is_refused(teacher: Classifier) -> None:
    with pytest.raises(ConfigError, match="names no module of the student"):
        trainer_of(teacher, STAGE.model_copy(update={"trains": ("network.layer9",)}))


def test_a_set_that_grows_needs_steps_per_epoch(teacher: Classifier) -> None:
    with pytest.raises(ConfigError, match="steps_per_epoch = 0"):
        trainer_of(teacher, STAGE.model_copy(update={"steps_per_epoch": 0}))


class Poisoned:
    """A feed whose nth batch is not a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def batches(self, batch: int, steps: int, draws: torch.Generator) -> Iterator[Batch]:
        for _ in range(steps):
            self.number -= 1
            yield Batch(torch.full((batch, *SPEC.shape), float("nan") if self.number < 0 else 0.5))


def test_nan_stops_with_the_step_and_the_term(teacher: Classifier) -> None:
    trainer = trainer_of(teacher)
    feed = Poisoned(4)
    trainer.train(3, feed)
    with pytest.raises(ConfigError, match="term 'kd' of the student .* at step 4"):
        trainer.train(3, feed)


def test_an_exploding_rate_stops(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, STAGE.model_copy(update={"optimizer": OptimizerConfig(rate=1e9)}))
    with pytest.raises(ConfigError, match="of the student is not finite or above"):
        trainer.train(12, PoolFeed(pool_of()))


def test_damage_of_the_very_last_step_is_seen_in_the_weights(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, STAGE.model_copy(update={"optimizer": OptimizerConfig(rate=1e12)}))
    with pytest.raises(ConfigError, match="term 'weights' .* at step 0"):
        trainer.train(1, PoolFeed(pool_of()))


@pytest.mark.parametrize(("size", "batch", "steps"), [(50, 16, 7), (5, 16, 3), (16, 16, 2)])
def test_feeds_give_exactly_what_was_asked(teacher: Classifier, size: int, batch: int, steps: int) -> None:
    synthesizer = FakeSynthesizer(teacher)
    feeds: list[Feed] = [PoolFeed(pool_of(size)), LabelledFeed(pool_of(size)), FreshFeed(synthesizer, plain_student())]
    for feed in feeds:
        batches = list(feed.batches(batch, steps, stream(0, "draws")))
        assert [len(part) for part in batches] == [batch] * steps
        assert all(part.images.dtype == torch.float32 and 0 <= part.images.min() <= part.images.max() <= 1 for part in batches)
    assert synthesizer.made == batch * steps


def test_labelled_feed_keeps_images_and_labels_together(teacher: Classifier) -> None:
    for part in LabelledFeed(pool_of()).batches(16, 5, stream(0, "draws")):
        assert part.labels is not None
        assert torch.equal(part.images[:, 0, ::4, ::4].flatten(1).argmax(1), part.labels)


def fit_of(teacher: Classifier, session: Session, scores: list[float] | None = None) -> StudentFit:
    judge = None if scores is None else (lambda student, start: Score(10, round(10 * scores.pop(0)), 1.0))
    selection = Selection(session.checkpoints.store, judge, keep_epochs=2)
    return StudentFit(trainer_of(teacher), PoolFeed(pool_of()), selection, session)


def test_fit_keeps_the_best_the_last_and_snapshots(teacher: Classifier, session: Session) -> None:
    fit = fit_of(teacher, session, [0.5, 0.9, 0.7, 0.8, 0.8])  # the last one is judged once more at the end
    numbers = fit.run()
    best, snapshots = fit.selection.best, fit.selection.snapshots
    assert numbers["holdout/agreement"] == 0.8
    assert best is not None
    assert (best.epoch, best.score, best.compared) == (2, Score(10, 9, 1.0), 4)
    assert [kept.epoch for kept in snapshots] == [2, 4]
    second, fourth = (fit.selection.weights(kept) for kept in snapshots)
    last = fit.trainer.student.state_dict()
    assert all(torch.equal(second[name], best.weights[name]) for name in best.weights)
    assert any(not torch.equal(best.weights[name], last[name]) for name in best.weights)
    assert all(torch.equal(fourth[name], last[name]) for name in last)


def test_fit_learns_and_a_finished_one_is_not_trained_again(teacher: Classifier, session: Session) -> None:
    numbers = fit_of(teacher, session).run()
    assert len(session.history) == 4
    assert numbers["student/kd"] < session.history[0]["student/kd"]
    told: list[Any] = []
    again = Session(session.checkpoints, session.progress, catch_up=told.append)
    fit = fit_of(teacher, again)
    assert fit.run() == numbers
    assert told == [session.history]
    assert fit.trainer.steps == 12


def test_synthesizer_that_goes_bad_stops_with_round_and_term(teacher: Classifier, session: Session) -> None:
    with pytest.raises(ConfigError, match="term 'label' of the synthesizer .* in round 3"):
        train_synthesizer(FakeSynthesizer(teacher, bad_round=3), 5, session)
    assert session.done == 2


def test_turns_of_a_synthesizer_are_booked_together(teacher: Classifier, session: Session) -> None:
    one, three = FakeSynthesizer(teacher), FakeSynthesizer(teacher)
    train_synthesizer(one, 6, Session(Checkpoints(FolderStore(Path(session.checkpoints.store.uri) / "other")), session.progress))
    train_synthesizer(three, 2, session, turns_per_round=3)
    assert torch.equal(one.pictures, three.pictures)
    assert session.done == 2


def test_synthesizer_resumes_after_its_last_checkpoint(teacher: Classifier, session: Session) -> None:
    alone = FakeSynthesizer(teacher)
    train_synthesizer(alone, 5, Session(Checkpoints(FolderStore(Path(session.checkpoints.store.uri) / "other")), session.progress))
    session.every = 2
    with pytest.raises(ConfigError):
        train_synthesizer(FakeSynthesizer(teacher, bad_round=4), 5, session)
    resumed = FakeSynthesizer(teacher)
    again = Session(session.checkpoints, session.progress, every=2)
    train_synthesizer(resumed, 5, again)
    assert resumed.rounds == 5
    assert torch.equal(alone.pictures, resumed.pictures)


def test_steps_within_an_epoch_are_told_and_change_nothing(
    teacher: Classifier, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(session.progress, "tick", lambda *words: told.append(words))
    fit = fit_of(teacher, session)
    monkeypatch.setattr(fit_module, "TICK_STEPS", 2)
    numbers = fit.run()
    assert told[::2] == [("student: epoch 1, step 2/3", 0, 4), ("student: epoch 2, step 3/3", 1, 4), ("student: epoch 4, step 1/3", 3, 4)]
    assert len(told) == 6
    monkeypatch.setattr(fit_module, "TICK_STEPS", 100)
    quiet = fit_of(teacher, Session(Checkpoints(FolderStore(tmp_path / "quiet")), session.progress))
    assert quiet.run() == numbers
    assert len(told) == 6
