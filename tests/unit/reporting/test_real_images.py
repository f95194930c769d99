"""Who uses real images is never told to use none, and who uses none is."""

import re
from pathlib import Path
from typing import Any

import pytest

from distillery.methods import catalog
from distillery.methods.catalog import METHODS
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance
from distillery.reporting.card import model_card, open_sources
from distillery.reporting.real_images import RealImages, find_real_images, tell_real_images
from distillery.reporting.render import render
from fakes import TINY, tiny_teacher
from page_data import made_up_page, made_up_report

NONE = "shown no real image"
WITHOUT = "without the pictures that its teacher was trained on"


def origin(*inputs: str, **config: Any) -> Provenance:
    return Provenance(inputs=dict.fromkeys(inputs, "0" * 64), config=config, code_version="c")


FREE = RealImages()
CASES: dict[str, tuple[Provenance, Provenance | None, dict[str, Any], RealImages]] = {
    "online": (origin("teacher", "statistics", method="fast_dfkd"), origin("teacher", "statistics", method="fast_dfkd"), {}, FREE),
    "offline": (origin("teacher", "set"), origin("teacher", "statistics", "synthesizer", method="ls_gdfd"), {}, FREE),
    "live": (origin("teacher", "synthesizer", "statistics"), None, {}, FREE),
    "real data": (origin("teacher", "data"), None, {}, RealImages(labelled=True)),
    "OOD images in a stage": (origin("teacher", "set", "ood"), origin("teacher", method="ls_gdfd"), {}, RealImages(other_domain=True)),
    "OOD images in the set": (origin("teacher", "set"), origin("teacher", "ood", method="ls_gdfd"), {}, RealImages(other_domain=True)),
    "a set to start from": (origin("teacher", "start"), origin("teacher", "start"), {}, RealImages(unknown=("start",))),
    "something new": (origin("teacher", "prompts"), None, {}, RealImages(unknown=("prompts",))),
    "a set that is gone": (origin("teacher", "set"), None, {}, RealImages(unknown=("set",))),
    "moments by class": (
        *(origin("teacher", "set"), origin("teacher", "statistics", "synthesizer")),
        {"statistics": {"kind": "per_class"}},
        RealImages(class_statistics=True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_files_say(name: str) -> None:
    student, drawn, sections, expected = CASES[name]
    found = find_real_images(student, drawn, sections)
    assert found == expected
    said = " ".join(tell_real_images(found))
    assert (NONE in said) == (not (expected.labelled or expected.other_domain or expected.unknown))
    assert ("labels" in said) == expected.labelled
    assert ("out-of-distribution" in said) == expected.other_domain
    assert ("not known" in said) == bool(expected.unknown)
    assert ("measured class by class on real labelled images" in said) == expected.class_statistics


@pytest.mark.parametrize(
    ("began", "expected"),
    [
        (origin("teacher", "statistics", method="fast_dfkd"), FREE),
        (origin("teacher", "ood", method="ls_gdfd"), RealImages(other_domain=True)),
        (origin("teacher", "start"), RealImages(unknown=("start",))),
        (None, RealImages(unknown=("start",))),
    ],
)
def test_a_set_that_a_pool_began_with_is_looked_into(began: Provenance | None, expected: RealImages) -> None:
    made = origin("teacher", "start")
    assert find_real_images(made, made, {}, began) == expected


def test_a_method_that_needs_images_of_another_domain_is_never_free(monkeypatch: pytest.MonkeyPatch) -> None:
    row = catalog.Method(**{**vars(METHODS["ls_gdfd"]), "name": "with_ood", "needs": {"ood": ""}})
    monkeypatch.setitem(METHODS, "with_ood", row)
    made = origin("teacher", "synthesizer", method="with_ood")
    assert find_real_images(origin("teacher", "set"), made).other_domain


@pytest.mark.parametrize(("weight", "used"), [(1.0, True), (0.0, False)])
def test_a_term_of_weight_0_has_used_none(weight: float, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    row = catalog.Method(**{**vars(METHODS["ls_gdfd"]), "name": "with_ood", "needs": {"ood": "realism_weight"}})
    monkeypatch.setitem(METHODS, "with_ood", row)
    made = origin("teacher", "synthesizer", method="with_ood", method_config={"realism_weight": weight})
    assert find_real_images(origin("teacher", "set"), made).other_domain == used


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("real", "free"),
    [
        (FREE, True),
        (RealImages(labelled=True), False),
        (RealImages(other_domain=True), False),
        (RealImages(unknown=("start",)), False),
        (None, False),
    ],
)
def test_the_page(real: RealImages | None, free: bool, labelled: bool) -> None:
    page = render(made_up_page(report=made_up_report(("cat", "dog", "owl"), labelled=labelled), real=real))
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert (NONE in text) == free
    assert (WITHOUT in text) == free
    for never in ("No real image was used", "not photographed", "only the teacher's weights"):
        assert never not in text
    if real and real.labelled:
        assert "trained on real images with their labels" in text
        assert "Pictures were made up until the teacher" not in text


@pytest.mark.parametrize(("inputs", "free"), [(("teacher", "statistics"), True), (("teacher", "data"), False)])
def test_the_card(inputs: tuple[str, ...], free: bool, tmp_path: Path) -> None:
    save_classifier(tmp_path / "student", tiny_teacher(steps=0), TINY, origin(*inputs, seed=1))
    card = model_card(open_sources(tmp_path / "student"))
    assert (NONE in card) == free
    assert ("real images with their labels" in card) != free
