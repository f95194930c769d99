"""Which student is the best: all that could be are compared on the same final held-out images, whenever each was looked at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distillery.engine.checkpoint import Checkpoints
from distillery.engine.selection import CANDIDATES, Kept, Score, Selection
from distillery.errors import StoreError
from distillery.storage import FolderStore, MemoryStore
from distillery.types import Classifier
from fakes import CLASSES, SPEC

Marks = Mapping[int, Sequence[float]]
"""Of each student, by its number: on every held-out image 1 where it agrees, and the tenths of a nat by which it is off."""


def student_of(number: int) -> Classifier:
    """A student that is known by its only weight."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, number)
    return Classifier(network, SPEC, CLASSES)


def number_of(student: Classifier | Mapping[str, torch.Tensor]) -> int:
    weights = student.state_dict() if isinstance(student, Classifier) else student
    return int(weights["network.weight"])


class Jury:
    """Judges by a table, on as many images as there are by now; remembers who was judged on how many."""

    def __init__(self, agrees: Marks, off: Mapping[int, float] | None = None) -> None:
        self.agrees = agrees
        self.off = off or {}
        self.there = len(next(iter(agrees.values())))
        self.calls: list[tuple[int, int]] = []

    def __call__(self, student: Classifier, start: int) -> Score:
        number = number_of(student)
        marks = self.agrees[number][start : self.there]
        self.calls.append((number, len(marks)))
        return Score(len(marks), int(sum(marks)), self.off.get(number, 1.0) * len(marks))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def files(store: FolderStore) -> int:
    return len(store.list("snapshots"))


def play(selection: Selection, jury: Jury, growth: Mapping[int, int], last: int) -> None:
    """Look at students 1, 2, ... as the images grow, with a checkpoint after each, and conclude with the last."""
    for epoch in range(1, last + 1):
        jury.there = growth.get(epoch, jury.there)
        selection.look(epoch, student_of(epoch))
        selection.sweep()
    selection.conclude(last, student_of(last))


def test_a_lucky_start_on_few_images_does_not_win_over_a_good_end_on_many(store: FolderStore) -> None:
    # the first agreed on 2 of the first 5 images (0.40) and on no later one; the last on 37 of 100 (0.37)
    early, late = [1.0] * 2 + [0.0] * 98, [0.0] * 63 + [1.0] * 37
    jury = Jury({1: early, 2: early, 3: late})
    selection = Selection(store, jury)
    play(selection, jury, {1: 5, 2: 5, 3: 100}, 3)
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.score.agreement, selection.best.score.images) == (3, 0.37, 100)
    assert number_of(selection.best.weights) == 3


def test_an_early_student_that_is_better_on_all_final_images_wins(store: FolderStore) -> None:
    jury = Jury({1: [1.0] * 10, 2: [1.0] * 4 + [0.0] * 6, 3: [1.0] * 9 + [0.0]})
    selection = Selection(store, jury)
    play(selection, jury, {1: 2, 2: 5, 3: 10}, 3)
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.score, number_of(selection.best.weights)) == (1, Score(10, 10, 10.0), 1)
    assert selection.best.compared == 3


def test_of_equal_agreement_the_smaller_divergence_wins_then_the_later_epoch(store: FolderStore) -> None:
    everything = [1.0] * 8
    by_divergence = Jury(dict.fromkeys((1, 2, 3), everything), off={1: 0.3, 2: 0.2, 3: 0.4})
    selection = Selection(store.below("a"), by_divergence)
    play(selection, by_divergence, {}, 3)
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.score.kl) == (2, pytest.approx(0.2))
    equal = Jury(dict.fromkeys((1, 2, 3), everything))
    selection = Selection(store.below("b"), equal)
    play(selection, equal, {}, 3)
    assert selection.best is not None
    assert selection.best.epoch == 3


def test_where_the_last_is_best_it_is_the_last(store: FolderStore) -> None:
    jury = Jury({1: [0.0, 1.0], 2: [1.0, 1.0]})
    selection = Selection(store, jury)
    last = student_of(2)
    selection.look(1, student_of(1))
    selection.look(2, last)
    selection.conclude(2, last)
    assert selection.best is not None
    assert selection.best.compared == 2, "the last one is a candidate as well, but one student"
    assert all(torch.equal(value, last.state_dict()[name]) for name, value in selection.best.weights.items())


def test_a_last_student_in_the_middle_of_an_epoch_is_compared_too(store: FolderStore) -> None:
    jury = Jury({1: [0.0, 1.0], 2: [1.0, 1.0]})
    selection = Selection(store, jury)
    selection.look(1, student_of(1))
    selection.conclude(1, student_of(2))
    assert selection.best is not None
    assert (selection.best.epoch, number_of(selection.best.weights)) == (1, 2)


def test_snapshots_are_compared_at_the_end_even_where_they_were_no_candidates(store: FolderStore) -> None:
    # the second is worst on the first images, so five others crowd it out; on the final ones it is the best
    marks = {number: [1.0] * 10 + [0.0] * 90 for number in range(1, 9)} | {2: [0.0] * 10 + [1.0] * 90}
    jury = Jury(marks)
    selection = Selection(store, jury, keep_epochs=2)
    play(selection, jury, {1: 10, 8: 100}, 8)
    assert [kept.epoch for kept in selection.snapshots] == [2, 4, 6, 8]
    assert 2 not in [kept.epoch for kept in selection.candidates]
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.score.agreement, number_of(selection.best.weights)) == (2, 0.9, 2)


def test_what_lies_in_the_store_is_bounded_and_a_checkpoint_does_not_grow(store: FolderStore) -> None:
    epochs = 40
    jury = Jury({number: [1.0] * number + [0.0] * (epochs - number) for number in range(1, epochs + 1)})
    selection = Selection(store, jury)
    sizes = []
    for epoch in range(1, epochs + 1):
        selection.look(epoch, student_of(epoch))
        assert files(store) <= CANDIDATES + 1
        selection.sweep()
        assert files(store) == min(epoch, CANDIDATES)
        Checkpoints(store.below("checkpoint")).save(epoch, selection.state_dict())
        sizes.append(sum(store.below("checkpoint").sizes("payloads").values()))
    assert max(sizes[CANDIDATES:]) - min(sizes[CANDIDATES:]) < 100, "bytes"
    assert [kept.epoch for kept in selection.candidates] == [40, 39, 38, 37, 36]
    selection.conclude(epochs, student_of(epochs))
    Checkpoints(store).finish({"metrics": {}})
    assert files(store) == 0


def test_growing_images_are_judged_once_a_student_and_all_of_them_once_more_at_the_end(store: FolderStore) -> None:
    jury = Jury({number: [1.0] * 30 for number in (1, 2, 3)})
    selection = Selection(store, jury)
    play(selection, jury, {1: 10, 2: 20, 3: 30}, 3)
    looks, end = jury.calls[:6], jury.calls[6:]
    assert looks[:4] == [(1, 10), (2, 20), (1, 10), (3, 30)]
    assert sorted(looks[4:]) == [(1, 10), (2, 10)], "only what came since"
    assert end[0] == (3, 30)
    assert sorted(end[1:]) == [(1, 30), (2, 30)], "in one go, as the last was"


def test_fixed_images_are_never_judged_twice(store: FolderStore) -> None:
    jury = Jury({number: [1.0] * 10 for number in (1, 2, 3)})
    selection = Selection(store, jury)
    play(selection, jury, {}, 3)
    assert jury.calls == [(1, 10), (2, 10), (3, 10), (3, 10)], "the last one anew, for it may stand in the middle of an epoch"


def test_without_held_out_images_nobody_is_the_best_but_snapshots_are_kept(store: FolderStore) -> None:
    for judge in (None, Jury({1: [], 2: []})):
        selection = Selection(store, judge, keep_epochs=2)
        assert [selection.look(epoch, student_of(epoch)) for epoch in (1, 2)] == [{}, {}]
        selection.conclude(2, student_of(2))
        assert (selection.best, selection.candidates) == (None, [])
        assert [number_of(selection.weights(kept)) for kept in selection.snapshots] == [2]


def test_images_that_come_late_judge_everybody(store: FolderStore) -> None:
    jury = Jury({1: [1.0, 1.0], 2: [0.0, 1.0], 3: [0.0, 0.0]})
    selection = Selection(store, jury, keep_epochs=1)
    play(selection, jury, {1: 0, 2: 0, 3: 2}, 3)
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.compared) == (1, 3)


def killed_after(store: FolderStore, jury: Jury, saved: int, seen: int) -> Any:
    """The state of a checkpoint after `saved` epochs; the process that wrote it went on to `seen` epochs, swept nothing, and died."""
    selection = Selection(store, jury, keep_epochs=3)
    state: Any = None
    for epoch in range(1, seen + 1):
        jury.there = 10 * epoch
        selection.look(epoch, student_of(epoch))
        if epoch <= saved:
            state = selection.state_dict()
            selection.sweep()
    return state


def test_a_killed_run_finds_every_student_that_its_checkpoint_names_and_ends_the_same(store: FolderStore) -> None:
    epochs = 12
    marks = {number: ([1.0] * (2 + number % 5) + [0.0] * 5) * 30 for number in range(1, epochs + 1)}
    alone_jury, jury = Jury(marks), Jury(marks)
    alone = Selection(store.below("alone"), alone_jury, keep_epochs=3)
    play(alone, alone_jury, {epoch: 10 * epoch for epoch in range(1, epochs + 1)}, epochs)
    killed = store.below("killed")
    state = killed_after(killed, jury, saved=6, seen=9)
    resumed = Selection(killed, jury, keep_epochs=3)
    resumed.load_state_dict(state)
    assert files(killed) == len({kept["sha256"] for group in state.values() for kept in group}), "what no checkpoint names is gone"
    for epoch in range(7, epochs + 1):
        jury.there = 10 * epoch
        resumed.look(epoch, student_of(epoch))
        resumed.sweep()
    resumed.conclude(epochs, student_of(epochs))
    assert resumed.state_dict() == alone.state_dict()
    assert resumed.best is not None
    assert alone.best is not None
    assert (resumed.best.epoch, resumed.best.score) == (alone.best.epoch, alone.best.score)
    assert killed.list("snapshots") == store.below("alone").list("snapshots")


def test_a_state_survives_a_checkpoint_and_says_nothing_of_weights(store: FolderStore) -> None:
    jury = Jury({1: [1.0, 0.0], 2: [1.0, 1.0]})
    selection = Selection(store, jury, keep_epochs=1)
    play(selection, jury, {}, 2)
    checkpoints = Checkpoints(store.below("checkpoint"))
    checkpoints.save(2, selection.state_dict())
    found = Checkpoints(store.below("checkpoint")).load()
    assert found is not None
    again = Selection(store, jury, keep_epochs=1)
    again.load_state_dict(found[1])
    assert (again.candidates, again.snapshots) == (selection.candidates, selection.snapshots)


@pytest.mark.parametrize("damage", ["gone", "flipped", "cut"])
def test_a_kept_student_that_is_gone_or_damaged_is_one_sentence(store: FolderStore, damage: str) -> None:
    selection = Selection(store, Jury({1: [1.0]}))
    selection.look(1, student_of(1))
    state = selection.state_dict()
    (key,) = store.list("snapshots")
    data = store.read(key)
    broken = {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-3]}
    if damage == "gone":
        store.delete(key)
    else:
        store.write(key, broken[damage])
    with pytest.raises(StoreError, match="student of epoch 1 .* is missing or damaged: delete that folder"):
        Selection(store, Jury({1: [1.0]})).load_state_dict(state)


def test_in_a_remote_store_only_files_of_this_process_are_removed() -> None:
    store = MemoryStore()
    store.remote = True
    store.write("snapshots/somebody.safetensors", b"else's")
    jury = Jury({number: [1.0] for number in range(1, 9)})
    selection = Selection(store, jury)
    for epoch in range(1, 9):
        selection.look(epoch, student_of(epoch))
        selection.sweep()
    again = Selection(store, jury)
    again.load_state_dict(selection.state_dict())
    assert len(store.list("snapshots")) == CANDIDATES + 1
    assert "snapshots/somebody.safetensors" in store.list("snapshots")


def test_a_student_that_is_worse_than_all_candidates_is_not_written(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    jury = Jury({number: [1.0] * (20 - number) + [0.0] * number for number in range(1, 9)})
    selection = Selection(store, jury)
    written: list[str] = []
    write = FolderStore.write
    monkeypatch.setattr(FolderStore, "write", lambda self, key, data: (written.append(key), write(self, key, data))[1])
    for epoch in range(1, 9):
        selection.look(epoch, student_of(epoch))
        selection.sweep()
    assert [kept.epoch for kept in selection.candidates] == [1, 2, 3, 4, 5]
    assert len(written) == CANDIDATES


def test_two_epochs_with_equal_weights_share_a_file(store: FolderStore) -> None:
    jury = Jury({1: [1.0]})
    selection = Selection(store, jury)
    for epoch in range(1, 9):
        selection.look(epoch, student_of(1))
        selection.sweep()
    assert files(store) == 1
    selection.conclude(8, student_of(1))
    assert selection.best is not None
    assert (selection.best.epoch, selection.best.compared) == (8, 1)


def test_rank_reads_agreement_then_divergence_then_epoch() -> None:
    kept = [Kept(1, "", Score(4, 3, 9.0)), Kept(3, "", Score(4, 3, 1.0)), Kept(2, "", Score(4, 3, 1.0)), Kept(9, "", Score(8, 5, 0.0))]
    assert [one.epoch for one in sorted(kept, key=lambda one: one.rank)] == [9, 1, 2, 3]
