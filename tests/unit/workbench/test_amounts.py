"""A set with too few images for its classes, or too many for its store, is wondered at by plan and dry run."""

import logging
from pathlib import Path
from typing import Any

import pytest

from distillery.estimate import profiling
from distillery.estimate.estimate import estimate
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance
from distillery.recipes.loader import load_recipe
from distillery.steps import plan
from distillery.storage import FolderStore, MemoryStore
from distillery.workbench.amounts import warn_quotas, warn_space
from fakes import TINY, tiny_teacher
from short_recipes import SHORT

RECIPE = "deep_inversion/digits"


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("workdir", "store"):
        monkeypatch.setenv(f"DISTILLERY_{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(profiling, "_start", lambda: (1.0, 1000))
    save_classifier(tmp_path / "teacher", tiny_teacher(steps=1), TINY, Provenance(code_version="test"))
    overrides = {**SHORT[RECIPE], "expects": {"height": 8, "width": 8, "classes": 4}}
    return {"teacher_uri": str(tmp_path / "teacher"), "run_recipe": RECIPE, "run_overrides": overrides}


@pytest.mark.parametrize("ask", [plan.run, estimate])
@pytest.mark.parametrize(("images", "empty"), [(3, 1), (4, 0)])
def test_a_set_with_fewer_images_than_classes(ask: Any, images: int, empty: int, form: dict[str, Any], caplog: Any) -> None:
    form["run_overrides"] |= {"set.size": images}
    with caplog.at_level(logging.WARNING):
        ask("inversion_distillation", form)
    told = f"set.size = {images} leaves {empty} of the teacher's 4 classes without an image: give a multiple of their number."
    assert (told in caplog.text) == bool(empty)


def test_the_pool_of_an_online_run_has_no_quotas(caplog: pytest.LogCaptureFixture, form: dict[str, Any]) -> None:
    info = plan.VerifiedBundle(Path(form["teacher_uri"])).info
    warn_quotas(load_recipe("fast_dfkd/digits"), info)
    warn_quotas(load_recipe("students/digits-kd"), info)
    assert not caplog.text


@pytest.mark.parametrize(("free", "told"), [(40 * 64 - 1, True), (40 * 64, False)])
def test_a_set_that_the_store_cannot_hold(
    free: int, told: bool, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FolderStore, "free_space", lambda store: free)
    plan.run("inversion_distillation", form)
    assert ("The run's images take" in caplog.text) == told


def test_nobody_knows_what_is_free_in_a_store_without_a_folder(form: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    info = plan.VerifiedBundle(Path(form["teacher_uri"])).info
    warn_space(load_recipe(RECIPE, {"set.size": 2**50}), info, MemoryStore())
    assert not caplog.text
    warn_space(load_recipe(RECIPE, {"set.size": 2**50}), info, FolderStore(Path(form["teacher_uri"]) / "not" / "there"))
    assert "free some, choose another store, or make fewer images" in caplog.text
