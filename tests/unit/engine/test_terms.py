"""Terms are averaged, and the first that goes bad is named."""

import logging

import pytest
import torch

from distillery.engine.terms import TermWatch, round_numbers
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
            history.append(round_numbers(Turn(terms, gradient_norms=norms), history))
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
    with pytest.raises(ConfigError, match=said):
        round_numbers(learned, [{}, {}])
