import pytest

from distillery.errors import ConfigError
from distillery.methods.fast_dfkd import FastDFKD, FastDFKDConfig
from distillery.runtime import resolve_runtime
from distillery.synthesis.protocol import Ingredients
from equivalence.plain import tiny_classifier
from methods import tiny


def test_the_adversarial_term_alone_says_that_it_needs_a_student() -> None:
    alone = {**tiny("fast_dfkd"), "moments_weight": 0, "label_weight": 0}
    teacher, student = tiny_classifier(6, seed=1).freeze(), tiny_classifier(4, seed=2)
    method = FastDFKD(FastDFKDConfig.parse(alone), Ingredients(teacher, resolve_runtime("cpu", "float32"), 0))
    for call in (lambda: method.advance(None), lambda: method.synthesize(3)):
        with pytest.raises(ConfigError, match="adversarial_weight alone is above 0, and that term needs a student"):
            call()
    assert set(method.advance(student).terms) == {"adversarial"}
