"""What holds for the numbers of every section of a recipe."""

import pytest

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.methods.catalog import METHODS
from distillery.students.plan import OptimizerConfig


class Numbers(Config):
    whole: int = 0
    real: float = 0.0
    several: tuple[float, ...] = ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"whole": 2**53 + 1}, r"whole has a value of 9.01e\+15, which nothing computes with: give at most 9.01e\+15"),
        ({"whole": -(10**400)}, "whole has a value of"),
        ({"real": -1e39}, r"real has a value of -1e\+39, which nothing computes with: give at most 3.4e\+38"),
        ({"several": [0.5, 1e300]}, r"several has a value of 1e\+300 or more"),
    ],
)
def test_numbers_that_nothing_computes_with_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Numbers.parse(values, "section")


def test_the_largest_numbers_pass() -> None:
    assert Numbers.parse({"whole": 2**53, "real": 3.4e38, "several": [-3.4e38]}).whole == 2**53


def _takes_momenta(name: str) -> bool:
    return "betas" in METHODS[name].load()[1].model_fields


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.5), (-0.1, 0.9)])
def test_momenta_that_adam_refuses_are_refused_in_the_recipe(betas: tuple[float, float]) -> None:
    names = [name for name in METHODS if _takes_momenta(name)]
    assert {"deep_inversion", "adaptive_deep_inversion", "ls_gdfd"} <= set(names)
    for name in names:
        with pytest.raises(ConfigError, match="betas"):
            METHODS[name].load()[1].parse({"betas": betas}, "synthesis.config")
    with pytest.raises(ConfigError, match="betas"):
        OptimizerConfig.parse({"name": "adam", "betas": betas})
