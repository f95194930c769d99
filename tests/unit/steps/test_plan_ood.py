"""The plan opens images of another domain, pins them for the steps that use them, and refuses what does not fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from chains import EXPECTS, SHARED, make_teacher
from distillery.data.ood import load_ood
from distillery.errors import ConfigError, MissingResourceError
from distillery.steps.plan import run
from distillery.types import ImageSpec
from toy_methods import TOYS, registered

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
SHARE = {"student.stages.0.ood_share": 0.25}
OFFLINE, ONLINE, INVERSION = "generative_distillation", "online_distillation", "inversion_distillation"
PIPELINES = {"toy_critic": OFFLINE, "toy_decoder": OFFLINE, "toy_opponent": ONLINE, "toy_inversion": INVERSION}


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    make_teacher(tmp_path / "teacher")
    np.savez(tmp_path / "others.npz", images=np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8))
    with registered():
        yield


def plan(folder: Path, method: str, ood: str = "others.npz", **overrides: Any) -> dict[str, dict[str, Any]]:
    online = {"student_steps_per_turn": 2} if PIPELINES[method] == ONLINE else {}
    rounds = {} if TOYS[method].row.inverts else {"rounds": 1}
    size = {} if online else {"set": {"size": 24, "max_oversampling": 3.0}}
    recipe = {
        "about": {"title": "A toy."},
        "synthesis": {"method": method, "config": TOYS[method].tiny, **online, **rounds},
        **size,
        "student": {"architecture": SHARED["student.architecture"], "stages": SHARED["student.stages"]},
        "expects": {name.removeprefix("expects."): value for name, value in EXPECTS.items()},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    form = {"teacher_uri": str(folder / "teacher"), "synth_ood_uri": ood and str(folder / ood), "run_overrides": overrides}
    return run(PIPELINES[method], {**form, "run_recipe_uri": str(folder / "recipe.yaml")})


@pytest.mark.parametrize(
    ("method", "overrides", "pinned"),
    [
        ("toy_critic", {}, {"generator", "materialize"}),
        ("toy_critic", SHARE, {"generator", "materialize", "student"}),
        ("toy_decoder", SHARE, {"student"}),
        ("toy_inversion", SHARE, {"student"}),
        ("toy_opponent", SHARE, {"distill"}),
    ],
)
def test_they_are_pinned_for_the_steps_that_use_them(tmp_path: Path, method: str, overrides: dict[str, Any], pinned: set[str]) -> None:
    sections = plan(tmp_path, method, **overrides)
    digest = load_ood(str(tmp_path / "others.npz"), SPEC).digest
    assert {name for name, section in sections.items() if section.get("ood_sha256")} == pinned
    assert {sections[name]["ood_sha256"] for name in pinned} == {digest}
    assert "others.npz" not in str(sections)


@pytest.mark.parametrize(
    ("method", "ood", "overrides", "said"),
    [
        (
            "toy_decoder",
            "",
            SHARE,
            r"stages.0.ood_share = 0.25 .* none are given: give some as --ood, or",
        ),
        (
            "toy_critic",
            "",
            {},
            r"learns from images of another domain, but there are none; .* or such images as --ood",
        ),
        ("toy_decoder", "others.npz", {}, r"others.npz' are for nobody: the method learns from none and no stage of the student has an"),
        ("toy_critic", "others.npz", {"synthesis.config.realism_weight": 0}, "are for nobody"),
        ("toy_critic", "others.npz", {"synthesis.config.batch": 21}, "There are 20 images of another domain at .*, but one batch takes 21"),
        (
            "toy_decoder",
            "others.npz",
            {**SHARE, "student.stages.0.batch": 100},
            "20 images .*, but one batch takes 25",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, method: str, ood: str, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(tmp_path, method, ood, **overrides)
    assert not (tmp_path / "store" / "runs").exists()


def test_one_batch_is_enough_and_nothing_there_is_not(tmp_path: Path) -> None:
    plan(tmp_path, "toy_critic", **{"synthesis.config.batch": 20})
    plan(tmp_path, "toy_decoder", **{**SHARE, "student.stages.0.batch": 80})
    with pytest.raises(MissingResourceError, match="There is no data at"):
        plan(tmp_path, "toy_critic", "nowhere")
