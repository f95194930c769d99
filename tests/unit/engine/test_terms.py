"""Terms are averaged, and the first that goes bad is named."""

import logging

import pytest
import torch

from distillery.engine.terms import TermWatch, read_round
from distillery.errors import ConfigError
from distillery.synthesis.protocol import Round


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


def test_a_dead_term_is_told(caplog: pytest.LogCaptureFixture) -> None:
    terms = {"moments": torch.tensor(1.0), "adversarial": torch.tensor(2.0)}
    with caplog.at_level(logging.WARNING):
        assert read_round(Round(terms, gradient_norms={"moments": torch.tensor(1.0), "adversarial": torch.tensor(0.02)}), 1)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        read_round(Round(terms, gradient_norms={"moments": torch.tensor(1.0), "adversarial": torch.tensor(1e-13)}), 2)
    assert "round 2: the term 'adversarial' hardly moves the images" in caplog.text
