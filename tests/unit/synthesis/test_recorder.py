"""The terms of a turn: their values, the first bad step, and their pull at the images."""

import pytest
import torch

from distillery.synthesis.recorder import TermRecorder, is_diagnosed


def test_the_first_turns_are_diagnosed_and_then_ever_fewer() -> None:
    assert [number for number in range(1, 70) if is_diagnosed(number)] == [1, 2, 3, 4, 8, 16, 32, 64]


def test_a_turn_of_two_steps_by_hand() -> None:
    images = torch.tensor([3.0, 4.0], requires_grad=True)
    recorder = TermRecorder(diagnose=True)
    loss = recorder.add({"square": (images**2).sum(), "apart": torch.tensor(2.0)}, images)
    assert float(loss.detach()) == 27.0
    loss.backward()
    assert torch.equal(images.grad, torch.tensor([6.0, 8.0]))  # type: ignore[arg-type]
    recorder.add({"square": (2 * images**2).sum(), "apart": torch.tensor(4.0)}, images)
    assert {name: float(value) for name, value in recorder.mean().items()} == {"square": 37.5, "apart": 3.0}
    assert {name: float(value) for name, value in recorder.last().items()} == {"square": 50.0, "apart": 4.0}
    turn = recorder.turn(recorder.mean(), ready=False)
    assert {name: float(norm) for name, norm in turn.gradient_norms.items()} == {"square": 10.0, "apart": 0.0}
    assert (turn.ready, turn.batch) == (False, None)
    assert not any(term.requires_grad for term in turn.terms.values())
    assert [int(step) for step in turn.first_bad.values()] == [0, 0]


def test_nothing_is_measured_where_nobody_asks() -> None:
    images = torch.ones(1, requires_grad=True)
    recorder = TermRecorder()
    recorder.add({"a": images.sum()}, images)
    assert not recorder.turn(recorder.last()).gradient_norms


@pytest.mark.parametrize("bad", [float("nan"), -float("inf"), 1e7])
def test_the_first_bad_step_is_kept_on_the_device(bad: float) -> None:
    recorder, far = TermRecorder(), TermRecorder()
    for a, b, c in [(1.0, 1.0, 1.0), (1.0, bad, 1.0), (bad, bad, 1.0)]:
        recorder.add({"a": torch.tensor(a), "b": torch.tensor(b), "c": torch.tensor(c)}, torch.empty(0))
    assert {name: int(step) for name, step in recorder.first_bad().items()} == {"a": 3, "b": 2, "c": 0}
    far.add({"a": torch.ones((), device="meta")}, torch.empty(0))
    assert far.first_bad()["a"].device.type == "meta", "it never reads a value"


def test_terms_of_several_generators_are_told_and_judged_as_the_mean_of_one() -> None:
    images = torch.tensor([3.0, 4.0], requires_grad=True)
    recorder = TermRecorder(diagnose=True)
    assert float(recorder.add({"a": 4e5 * images.sum()}, images, groups=4).detach()) == 28e5, "the loss is the sum"
    recorder.add({"a": torch.tensor(8.0)}, images, groups=4)
    recorder.begin()
    recorder.add({"a": 1e5 * images.sum()}, images, groups=1)
    recorder.add({"a": torch.tensor(7.0)}, images, groups=1)
    assert float(recorder.last()["a"]) == 3.0
    assert float(recorder.mean()["a"]) == (7e5 + 3.0) / 2
    assert int(recorder.first_bad()["a"]) == 0, "4 generators owe 28e5 together, which is above what one may"
    expected = (2 * (4e5**2 + 1e5**2) / 5) ** 0.5
    assert float(recorder.turn(recorder.mean()).gradient_norms["a"]) == pytest.approx(expected)
    recorder.begin()
    recorder.add({"a": torch.tensor(float("nan"))}, images, groups=1)
    assert int(recorder.first_bad()["a"]) == 1, "one generator that goes bad is enough"
