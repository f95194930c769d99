"""Moments of classes without data: images of every class from the teacher alone, a set as any other, and its statistics."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import distillery
from chains import EXPECTS, make_teacher
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.models.bundle import VerifiedBundle
from distillery.statistics.counts import STABLE_IMAGES
from distillery.statistics.extract import class_moments
from distillery.statistics.moments import load_moments, read_origin
from distillery.workbench.class_images import warn_of_few
from distillery_kfp.pipelines.cli import app as cli
from toy_methods import registered


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    document = {
        "about": {"title": "A toy."},
        "synthesis": {"method": "toy_inversion", "config": {"batch": 9, "steps": 4, "label_weight": 1.0}},
        "set": {"size": 5, "max_oversampling": 50.0, "shard_images": 8},
        "student": {"architecture": {"name": "lenet5"}, "stages": [{"objectives": [{"name": "kd"}], "epochs": 1, "batch": 4}]},
        "expects": {name.removeprefix("expects."): value for name, value in EXPECTS.items()},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    make_teacher(tmp_path / "teacher", seed=2)  # one that names some noise as each class
    with registered():
        yield path


BLIND = 0
"""Seed of a teacher that names noise as one class."""


def call(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["distillery", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_the_statistics_are_those_of_the_images_by_the_teachers_eye(recipe: Path, tmp_path: Path) -> None:
    made = distillery.invert(tmp_path / "teacher", recipe, tmp_path / "out", 3, device="cpu")
    bundle = VerifiedBundle(tmp_path / "teacher")
    shard = made.set.open().load("train")
    named = shard.teacher_logits.argmax(dim=1)
    assert named.bincount(minlength=3).tolist() == [3, 3, 3]
    found = load_moments(made.statistics, bundle.sha256)
    expected = class_moments(bundle.classifier, shard.images, named, bundle.sha256)
    assert found.counts is not None
    assert found.counts.tolist() == [3, 3, 3]
    for path, value in expected.mean.items():
        torch.testing.assert_close(found.mean[path], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.variance[path], expected.variance[path], rtol=1e-4, atol=1e-5)
    assert read_origin(made.statistics).inputs == {"teacher": bundle.sha256, "set": made.set.sha256}
    again = distillery.invert(tmp_path / "teacher", recipe, tmp_path / "out", 3, device="cpu")
    assert (again.set.sha256, again.statistics.read_bytes()) == (made.set.sha256, made.statistics.read_bytes())


def test_the_command_does_the_same(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = distillery.invert(tmp_path / "teacher", recipe, tmp_path / "one", 3, device="cpu")
    command = ["invert", str(recipe), "--teacher", str(tmp_path / "teacher"), "--out", str(tmp_path / "two"), "--per-class", "3"]
    assert call(*command, "--device", "cpu") == 0
    assert (tmp_path / "two" / "class-statistics.safetensors").read_bytes() == made.statistics.read_bytes()
    out = capsys.readouterr().out
    assert "images 9" in out
    assert "class-statistics.safetensors: sha256 " in out


def test_a_set_is_measured_where_it_lies(recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = distillery.invert(tmp_path / "teacher", recipe, tmp_path / "out", 3, device="cpu")
    out = tmp_path / "again.safetensors"
    command = ["extract-statistics", str(tmp_path / "teacher"), "--set-uri", str(tmp_path / "out" / "set"), "--out", str(out)]
    with caplog.at_level(logging.WARNING):
        assert call(*command, "--device", "cpu") == 0
    assert load_moments(out, VerifiedBundle(tmp_path / "teacher").sha256).counts is not None
    assert read_origin(out).inputs == read_origin(made.statistics).inputs
    assert f"Classes with fewer than {STABLE_IMAGES} images" in caplog.text
    assert "a (3), b (3), c (3)" in caplog.text


def test_what_does_not_fit_is_one_sentence(recipe: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    for wrong in (1, "3", 2.5, None, True, [2]):
        with pytest.raises(ConfigError, match=rf"^per_class = {re.escape(repr(wrong))} is not allowed: give a whole number from 2 on"):
            distillery.invert(teacher, recipe, tmp_path / "out", wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ls_gdfd trains a generator and inverts no images: give a recipe of one of .*toy_inversion"):
        distillery.invert(teacher, "ls_gdfd/digits", tmp_path / "out", 3)
    with pytest.raises(ConfigError, match="adaptive_deep_inversion needs a student to play against and inverts no images"):
        distillery.invert(teacher, "adaptive_deep_inversion/digits", tmp_path / "out", 3)
    made = distillery.invert(teacher, recipe, tmp_path / "out", 3, device="cpu")
    make_teacher(tmp_path / "another", seed=1)
    with pytest.raises(CheckpointMismatchError, match="another|teacher"):
        distillery.distill(tmp_path / "another", "ls_gdfd/digits", tmp_path / "run", statistics=made.statistics, overrides=EXPECTS)


def test_a_set_without_a_class_says_how_to_get_one_with_it(recipe: Path, tmp_path: Path) -> None:
    make_teacher(tmp_path / "blind", seed=BLIND)
    said = r"holds no image that the teacher names as class .*: make one that does, with more steps of the method or a larger set\.max_over"
    with pytest.raises(ConfigError, match=said):
        distillery.invert(tmp_path / "blind", recipe, tmp_path / "out", 2, overrides={"set.max_oversampling": 2.0}, device="cpu")
    assert not (tmp_path / "out" / "class-statistics.safetensors").exists()


@pytest.mark.parametrize(("counts", "named"), [([STABLE_IMAGES, STABLE_IMAGES], ""), ([STABLE_IMAGES, STABLE_IMAGES - 1], "b (299)")])
def test_a_class_with_few_images_is_named_with_its_count(counts: list[int], named: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_few(counts, ("a", "b"))
    assert named in caplog.text
    assert bool(caplog.records) == bool(named)
