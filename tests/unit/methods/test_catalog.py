"""What a method needs of a run, and what it says where the run does not have it."""

from dataclasses import replace
from typing import Any

import pytest

from distillery.errors import ConfigError
from distillery.methods import catalog
from distillery.methods.catalog import METHODS, NEEDS, Method, Need, Supply, find_method, methods_fitting
from distillery.synthesis.config import MethodConfig

EVERYTHING = Supply(batchnorm=True, by_class=True, ood=True)


class Weighted(MethodConfig):
    match_weight: float = 1.0
    other_weight: float = 1.0


def row(name: str, needs: dict[Need, str]) -> Method:
    return Method(
        name=name,
        title=name.upper(),
        paper="a paper",
        target="generator",
        coupling="offline",
        feed="pool",
        summary="does nothing",
        implementation=f"{__name__}:Weighted",
        needs=needs,
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Method]:
    needs: dict[str, dict[Need, str]] = {
        "free": {},
        "moments": {"moments": "match_weight"},
        "classes": {"class_moments": "match_weight", "ood": "other_weight"},
        "layers": {"batchnorm": ""},
        "abroad": {"ood": ""},
    }
    rows = {name: row(name, wanted) for name, wanted in needs.items()}
    monkeypatch.setattr(catalog, "METHODS", rows)
    return rows


def test_a_weight_of_zero_lifts_its_need_alone(known: dict[str, Method]) -> None:
    assert known["classes"].required(Weighted()) == ("class_moments", "ood")
    assert known["classes"].required(Weighted(match_weight=0)) == ("ood",)
    assert known["layers"].required(Weighted(match_weight=0)) == ("batchnorm",)
    assert known["free"].required(Weighted()) == ()


@pytest.mark.parametrize(
    ("name", "supply", "said"),
    [
        (
            "moments",
            Supply(batchnorm=False, teacher=" 'lenet5'", left_out=" (left out: a, b)"),
            "moments matches BatchNorm statistics, but the teacher 'lenet5' has no BatchNorm2d layer with running statistics that a "
            "forward pass visits (left out: a, b); what works without: free, moments with match_weight = 0, classes with match_weight = 0 "
            "and other_weight = 0; choose one of them or a teacher with BatchNorm2d.",
        ),
        (
            "layers",
            Supply(batchnorm=False, ood=True),
            "layers looks into the teacher's BatchNorm2d layers, but the teacher has no BatchNorm2d layer with running statistics that a "
            "forward pass visits; what works without: free, moments with match_weight = 0, classes with match_weight = 0, abroad; choose "
            "one of them or a teacher with BatchNorm2d.",
        ),
        (
            "classes",
            Supply(batchnorm=True, ood=True),
            "classes matches BatchNorm statistics of each class, but its moments are those of all classes together; what works without: "
            "free, moments, classes with match_weight = 0, layers, abroad; choose one of them or statistics measured class by class "
            "(`distillery extract-statistics --data` on labelled images, `distillery invert` without any), as --statistics.",
        ),
        (
            "abroad",
            Supply(batchnorm=True, by_class=True),
            "abroad learns from images of another domain, but there are none; what works without: free, moments, classes with "
            "other_weight = 0, layers; choose one of them or such images as --ood.",
        ),
    ],
)
def test_each_need_is_refused_in_a_sentence_of_its_own(known: dict[str, Method], name: str, supply: Supply, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        known[name].check(Weighted(), supply)
    assert str(refused.value) == said
    known[name].check(Weighted(), EVERYTHING)


def test_where_nothing_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "METHODS", {"layers": row("layers", {"batchnorm": ""})})
    assert methods_fitting(Supply(batchnorm=False)) == "no method here"


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_of_needs_are_the_method_s_own(name: str) -> None:
    fields: dict[str, Any] = METHODS[name].load()[1].model_fields
    assert {weight for weight in METHODS[name].needs.values() if weight} <= set(fields)
    assert set(METHODS[name].needs) <= set(NEEDS)


def test_a_method_that_nobody_named_is_missing() -> None:
    with pytest.raises(ConfigError, match=rf"^synthesis\.method is missing: name one of {', '.join(METHODS)}\.$"):
        find_method("")


def test_a_setting_that_is_no_weight_may_need_something_of_its_own() -> None:
    row, config = find_method("ls_gdfd"), find_method("ls_gdfd").load()[1]
    assert row.required(config()) == ("moments",)
    by_class = config(targets="class")
    assert row.required(by_class) == ("moments", "class_moments")
    assert row.required(config(moments_weight=0)) == ()
    row.check(by_class, EVERYTHING)
    with pytest.raises(ConfigError, match="ls_gdfd matches BatchNorm statistics of each class, but its moments are those of all classes"):
        row.check(by_class, Supply(batchnorm=True))
    for idle, said in (({"moments_weight": 0, "targets": "class"}, "moments_weight is 0"), ({"images_per_class": 8}, "targets is global")):
        with pytest.raises(ConfigError, match=f"has no effect where {said}"):
            config.parse(idle)


@pytest.mark.parametrize(("name", "need"), [(name, need) for name, method in METHODS.items() for need in method.takes])
def test_the_setting_that_asks_for_what_is_optional_brings_the_need(name: str, need: Need) -> None:
    method = find_method(name)
    setting, _, value = method.takes[need].partition("=")
    config = method.load()[1]
    assert need not in method.required(config())
    assert need in method.required(config.parse({setting: value}, "config"))


def test_the_way_to_what_is_there_is_a_setting_or_other_methods(known: dict[str, Method]) -> None:
    asked = replace(known["free"], takes={"class_moments": "targets=class"})
    known["free"] = asked
    assert asked.way_to("class_moments") == "add --set synthesis.config.targets=class"
    assert known["layers"].way_to("class_moments") == "choose a recipe of a method that does (free, classes)"
    assert known["layers"].way_to("moments") == "choose a recipe of a method that does (moments)"


@pytest.mark.parametrize("idle", [{"competition": "clamped"}, {"temperature": 7.0}])
def test_a_setting_of_a_competition_that_is_left_out_is_refused(idle: dict[str, object]) -> None:
    config = find_method("adaptive_deep_inversion").load()[1]
    config.parse(idle)
    with pytest.raises(ConfigError, match=f"{next(iter(idle))} = .* has no effect where competition_weight is 0"):
        config.parse({**idle, "competition_weight": 0})
