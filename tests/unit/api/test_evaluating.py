"""Several students scored as one, and a student of other classes, through Python and the command."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery import ConfigError, evaluate
from distillery.evaluation.report import load_report
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.cli import app as cli

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
SMALL = Architecture(name="resnet8", arguments={"base_width": 8})
QUICK = {"latency": False}


def bundle(folder: Path, seed: int, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    torch.manual_seed(seed)
    classifier = Classifier(build_network(SMALL, SPEC, len(names)), SPEC, names)
    save_classifier(folder, classifier, SMALL, Provenance(code_version="1"))
    return folder


@pytest.fixture
def desk(tmp_path: Path) -> dict[str, Path]:
    made = {name: bundle(tmp_path / name, seed) for seed, name in enumerate(("teacher", "one", "two"))}
    made["other"] = bundle(tmp_path / "other", 7, ("x", "y"))
    images = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), dtype=np.uint8)
    for name, classes in (("data", 3), ("others", 2)):
        made[name] = tmp_path / f"{name}.npz"
        np.savez(made[name], images=images, labels=np.arange(24) % classes)
    return made


def test_several_students_are_scored_as_one_and_each_alone(desk: dict[str, Path]) -> None:
    report = evaluate([desk["one"], desk["two"]], desk["teacher"], desk["data"], options=QUICK)
    alone = [evaluate(desk[name], desk["teacher"], desk["data"], options=QUICK) for name in ("one", "two")]
    assert [member.accuracy for member in report.members] == [one.student.accuracy for one in alone]
    assert [member.sha256 for member in report.members] == [one.student.sha256 for one in alone]
    assert report.student.cost.weights_bytes == sum(one.student.cost.weights_bytes for one in alone)
    assert report.student.name == "mean of 2"
    assert alone[0].members == ()


def test_a_student_of_other_classes_is_scored_on_its_own_labels(desk: dict[str, Path]) -> None:
    report = evaluate(desk["other"], desk["teacher"], desk["others"], options=QUICK)
    assert (report.compared, report.student.accuracy.total, report.class_names) == (False, 24, ("x", "y"))
    with pytest.raises(ConfigError, match="label 2, but the classifier has 2 classes"):
        evaluate(desk["other"], desk["teacher"], desk["data"], options=QUICK)


@pytest.mark.parametrize(
    ("students", "said"),
    [(["one"], "student is a list of 1: give one student, or a list of two or more"), (["one", "other"], "cannot be averaged")],
)
def test_what_cannot_be_averaged_is_one_sentence(students: list[str], said: str, desk: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate([desk[name] for name in students], desk["teacher"], desk["data"], options=QUICK)


def call(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["distillery", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def test_the_command_takes_several_students(
    desk: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--teacher", desk["teacher"], "--data", desk["data"], "--json", tmp_path / "report.json", "--device", "cpu")
    call(monkeypatch, desk["one"], desk["two"], *given)
    said = capsys.readouterr().out
    report = load_report(tmp_path / "report.json")
    for member in report.members:
        assert f"{member.name} {member.sha256[:12]} alone" in said
    inputs = json.loads((tmp_path / "report.json").read_bytes())["provenance"]["inputs"]
    assert {name: inputs[f"student/{name}"] for name in ("1", "2")} == {
        str(number): member.sha256 for number, member in enumerate(report.members, start=1)
    }


def test_the_command_scores_a_student_of_other_classes(
    desk: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, desk["other"], "--teacher", desk["teacher"], "--data", desk["others"], "--device", "cpu")
    assert "not compared" in capsys.readouterr().out
