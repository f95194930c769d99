"""Terms are averaged, and the first that goes bad is named."""

import logging

import pytest
import torch

from distillery.engine.terms import TermWatch, TurnWatch
from distillery.errors import ConfigError
from distillery.synthesis.protocol import Turn


def test_means_over_the_steps() -> None:
    watch = TermWatch("x", 0)
    watch.add(("a", "b"), torch.tensor([1.0, 4.0]))
    watch.add(("a", "b"), torch.tensor([3.0, 8.0]))
    assert watch.read() == {"a": 2.0, "b": 6.0}
    assert TermWatch("x", 0).read() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e7])
def test_the_earliest_bad_step_is_named_with_its_term(bad: float) -> None:
    watch = TermWatch("the student", 10)
    watch.add(("a", "b"), torch.tensor([1.0, 1.0]))
    watch.add(("a", "b"), torch.tensor([1.0, bad]))
    watch.add(("a", "b"), torch.tensor([bad, 1.0]))
    with pytest.raises(ConfigError, match="term 'b' of the student .* at step 11"):
        watch.read()


def test_a_dead_term_is_told_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    terms = {"moments": torch.tensor(1.0), "adversarial": torch.tensor(2.0)}
    history: list[dict[str, float]] = []
    told = []
    for strength in (0.02, 1e-13, 1e-13, 1e-13):
        caplog.clear()
        norms = {"moments": torch.tensor(1.0), "adversarial": torch.tensor(strength)}
        with caplog.at_level(logging.WARNING):
            watch = TurnWatch(len(history) + 1)
            watch.add(Turn(terms, gradient_norms=norms))
            history.append(watch.read(history))
        told.append(caplog.messages)
    assert [len(messages) for messages in told] == [0, 1, 0, 0]
    assert "round 2: the term 'adversarial' hardly moves the images" in told[1][0]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({}, "term 'a' of the synthesizer .* in round 3: "),
        ({"a": 5, "b": 4}, "term 'b' of the synthesizer .* in round 3, step 4 of it: "),
        ({"a": 4, "b": 0}, "term 'a' of the synthesizer .* in round 3, step 4 of it: "),
    ],
)
def test_the_step_of_a_round_at_which_a_term_went_bad_is_named(steps: dict[str, int], said: str) -> None:
    learned = Turn(dict.fromkeys("ab", torch.tensor(torch.nan)), first_bad={name: torch.tensor(step) for name, step in steps.items()})
    watch = TurnWatch(3)
    watch.add(learned)
    with pytest.raises(ConfigError, match=said):
        watch.read([{}, {}])


def test_a_round_is_the_mean_of_its_turns_each_term_over_those_that_have_it() -> None:
    watch = TurnWatch(1, turns=3)
    for label, more in ((1.0, {}), (2.0, {"adversarial": 5.0}), (6.0, {"adversarial": 7.0})):
        norms = {"label": torch.tensor(label)} if label < 3 else {}
        watch.add(Turn({name: torch.tensor(value) for name, value in {"label": label, **more}.items()}, gradient_norms=norms))
    assert watch.read([]) == {"synthesis/label": 3.0, "synthesis/adversarial": 6.0, "gradient/label": 1.5}


def test_the_turn_at_which_a_term_went_bad_is_named_with_its_round_and_step() -> None:
    watch = TurnWatch(5, turns=4)
    for value, step in ((1.0, 0), (float("inf"), 7), (float("nan"), 2), (1.0, 0)):
        watch.add(Turn({"kd": torch.tensor(1.0), "label": torch.tensor(value)}, first_bad={"label": torch.tensor(step)}))
    with pytest.raises(ConfigError, match="term 'label' of the synthesizer .* in turn 2 of round 5, step 7 of it: "):
        watch.read(4 * [{}])


def test_turns_are_added_without_reading_a_value() -> None:
    watch = TurnWatch(1, turns=2)
    terms = {"label": torch.ones((), device="meta")}
    watch.add(Turn(terms, gradient_norms=terms, first_bad=terms))
    watch.add(Turn(terms))
