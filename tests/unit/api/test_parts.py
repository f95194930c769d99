"""The parts of a distillation by themselves: teachers, sets, evaluations, exports, progress in words."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import distillery
from distillery import CheckpointMismatchError, ConfigError, Distilled, ImageSpec, MissingResourceError, ProgressEvent, TextProgress
from distillery.evaluation.report import load_report
from distillery.models.bundle import read_bundle
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import sha256_file
from tiny_runs import labelled

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
SETTINGS = {"name": "wrn_10_1", "arguments": {"base_width": 2}}


@pytest.fixture
def network() -> nn.Module:
    return build_network(Architecture.parse(SETTINGS), SPEC, 3).eval()


def test_a_module_in_memory_becomes_a_teacher(network: nn.Module, tmp_path: Path) -> None:
    teacher = distillery.import_teacher(network, SETTINGS, SPEC, ("a", "b", "c"), tmp_path / "teacher", data=labelled(tmp_path))
    assert (teacher.folder, teacher.classes, teacher.images) == (tmp_path / "teacher", 3, 30)
    assert teacher.sha256 == read_bundle(teacher.folder)[1]
    assert teacher.batchnorm > 0
    loaded, images = teacher.load(), torch.rand(4, 1, 8, 8)
    assert not loaded.training
    assert torch.equal(loaded(images), network((images - 0.5) / 0.5))
    assert teacher.top1 is not None
    assert teacher.hint == "" or 0 <= teacher.top1 <= 1
    assert Path(teacher) == teacher.folder


def test_a_file_a_state_dict_and_a_module_are_one_teacher(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    sources: tuple[Any, ...] = (tmp_path / "weights.pt", network.state_dict(), network)
    weights = {
        read_bundle(distillery.import_teacher(source, SETTINGS, SPEC.to_json(), 3, tmp_path / str(number)).folder)[0].weights_sha256
        for number, source in enumerate(sources)
    }
    assert len(weights) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": 3}, "weights is an int: give a file, a state dict or a module"),
        ({"classes": "abc"}, "classes = 'abc' is a text"),
        ({"out": 3}, "out is an int, where a path"),
        ({"classes": 4}, "4 class names"),
    ],
)
def test_a_teacher_that_cannot_be_is_one_sentence(change: dict[str, Any], sentence: str, network: nn.Module, tmp_path: Path) -> None:
    asked = {"weights": network, "architecture": SETTINGS, "spec": SPEC, "classes": 3, "out": tmp_path / "out", **change}
    with pytest.raises(ConfigError, match=sentence):
        distillery.import_teacher(**asked)
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_read_in_eval_mode_and_pinned(done: Distilled) -> None:
    student = distillery.load_classifier(str(done.student))
    assert not student.training
    with pytest.raises(CheckpointMismatchError, match="was asked for"):
        distillery.load_classifier(done.student, "0" * 64)


def test_more_images_are_drawn_from_the_synthesizer(done: Distilled, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    options = {"set": {"batch": 8, "shard_images": 8, "holdout": 0}}
    asked = {"options": options, "seed": 5, "device": "cpu", "progress": told.append}
    made = distillery.materialize(done.teacher, done.synthesizer, tmp_path / "more", 9, **asked)
    assert made.sha256 == made.open().digest
    assert made.metrics["images"] == len(made.open().load("train").images) <= 9
    assert {event.step for event in told} == {"extract_statistics", "materialize"}
    again = distillery.materialize(done.teacher, done.synthesizer, tmp_path / "more", 9, **{**asked, "progress": lambda event: None})
    assert (again.sha256, again.uri) == (made.sha256, made.uri)
    with pytest.raises(ConfigError, match="options"):
        distillery.materialize(done.teacher, done.synthesizer, tmp_path / "more", 9, options={"sets": {}})


def test_images_are_drawn_with_the_moments_that_the_synthesizer_names_and_no_others(done: Distilled, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    options = {"set": {"batch": 8, "shard_images": 8, "holdout": 0}}
    asked = {"options": options, "seed": 5, "device": "cpu", "statistics": done.statistics, "progress": told.append}
    made = distillery.materialize(done.teacher, done.synthesizer, tmp_path / "more", 9, **asked)
    assert made.open().manifest.provenance.inputs["statistics"] == sha256_file(done.statistics)
    assert {event.step for event in told} == {"materialize"}
    others = tmp_path / "others.safetensors"
    others.write_bytes(done.statistics.read_bytes() + b" ")
    with pytest.raises(CheckpointMismatchError, match=r"but the synthesizer was trained on those with sha256 [0-9a-f]{12}: give the file"):
        distillery.materialize(done.teacher, done.synthesizer, tmp_path / "no", 9, **{**asked, "statistics": others})
    with pytest.raises(MissingResourceError, match="nowhere"):
        distillery.materialize(done.teacher, done.synthesizer, tmp_path / "no", 9, **{**asked, "statistics": tmp_path / "nowhere"})


def test_an_evaluation_is_the_pipelines(done: Distilled, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    data = labelled(tmp_path)
    report = distillery.evaluate(done.student, done.teacher, data, options={"latency": False}, device="cpu", progress=told.append)
    before = load_report(done.report)
    assert report.student.accuracy == before.student.accuracy
    assert report.agreement == before.agreement
    assert told[-1].step == "evaluate"
    assert told[-1].done == told[-1].total
    with pytest.raises(ConfigError, match="No labelled images"):
        distillery.evaluate(done.student, done.teacher, "")


def test_a_classifier_in_memory_is_scored_and_left_as_it_is(done: Distilled, tmp_path: Path) -> None:
    student = done.load().train()
    report = distillery.evaluate(student, done.teacher, labelled(tmp_path), options={"latency": False}, device="cpu")
    assert report.agreement == load_report(done.report).agreement
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_student_leaves_as_pt2(done: Distilled, tmp_path: Path) -> None:
    files = distillery.export(done.student, tmp_path / "served", formats="pt2", inputs="float32")
    assert set(files) == {"student.pt2", "export.json"}
    assert files["student.pt2"].difference is not None
    images = torch.rand(2, 1, 8, 8)
    served = torch.export.load(tmp_path / "served" / "student.pt2").module()
    assert torch.allclose(served(images), done.load()(images), atol=1e-5)


def test_progress_in_words_comes_with_the_step_and_then_every_few_seconds() -> None:
    stream, times = io.StringIO(), iter([0.0, 1.0, 6.0, 7.0, 7.5])
    progress = TextProgress(stream, seconds=5, clock=lambda: next(times))
    for done in (1, 2, 3, 4):
        progress(ProgressEvent("train_student", "epoch", done, 4, {"kd": 0.12345} if done == 3 else {}))
    progress(ProgressEvent("evaluate", "images", 1, 2000))
    assert stream.getvalue().splitlines() == [
        "train_student: epoch 1/4",
        "train_student: epoch 3/4  kd 0.1235",
        "train_student: epoch 4/4",
        "evaluate: images 1/2,000",
    ]
