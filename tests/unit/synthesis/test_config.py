"""What every method's settings answer."""

import pytest

from distillery.errors import ConfigError
from distillery.methods.catalog import METHODS
from distillery.synthesis.config import MethodConfig


class Three(MethodConfig):
    one_weight: float = 1.0
    two_weight: float = 0.0
    three_weight: float = 0.0
    batch: int = 8


class Single(MethodConfig):
    only_weight: float = 1.0


class Weightless(MethodConfig):
    batch: int = 8


def test_the_weights_are_the_fields_that_end_so() -> None:
    assert Three().weights == {"one_weight": 1.0, "two_weight": 0.0, "three_weight": 0.0}


def test_some_weight_is_above_zero() -> None:
    assert Three(one_weight=0.0, two_weight=0.1).weights["two_weight"] == 0.1
    with pytest.raises(ConfigError, match="one_weight, two_weight and three_weight are all 0, so nothing is left to minimise: give one"):
        Three.parse({"one_weight": 0})
    with pytest.raises(ConfigError, match="only_weight is 0, so nothing is left to minimise"):
        Single.parse({"only_weight": 0})
    assert Weightless().weights == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_such_settings(name: str) -> None:
    config = METHODS[name].load()[1]
    assert issubclass(config, MethodConfig)
    settings = config()
    assert min(settings.images_per_turn, settings.warmup_turns) >= 0
    assert settings.steps_per_turn >= 1
