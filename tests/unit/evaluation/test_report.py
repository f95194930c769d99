import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from distillery.documents import seal
from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.evaluation import report as module
from distillery.evaluation.accuracy import whole_matrix
from distillery.evaluation.agreement import Agreement
from distillery.evaluation.cost import LatencyConfig
from distillery.evaluation.predict import predict
from distillery.evaluation.report import (
    Chosen,
    EvaluationConfig,
    EvaluationImages,
    EvaluationReport,
    MeasuredModel,
    evaluate,
    flat_metrics,
    load_report,
    save_report,
)
from distillery.evaluation.table import table
from distillery.provenance import Provenance
from distillery.types import Classifier, ImageSpec

PROVENANCE = Provenance(inputs={"teacher": "abc"}, code_version="1")
QUICK = EvaluationConfig(batch=7, timing=LatencyConfig(batches=(1, 2), warmup=1, repeats=3))
SILENT = EvaluationConfig(batch=7, latency=False)


def make_classifier(width: int, classes: int = 7, size: int = 6) -> Classifier:
    torch.manual_seed(width)
    head = nn.Linear(width * (size - 2) ** 2, classes)
    network = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), head)
    spec = ImageSpec(channels=2, height=size, width=size, mean=(0.5, 0.4), std=(0.3, 0.2))
    return Classifier(network, spec, tuple(f"class {i}" for i in range(classes)))


def make_images(n: int = 30, classes: int = 7) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, 2, 6, 6), generator=stream, dtype=torch.uint8), torch.randint(0, classes, (n,), generator=stream)


def make_report(labelled: bool = True, config: EvaluationConfig = QUICK, classes: int = 7) -> EvaluationReport:
    images, labels = make_images(classes=classes)
    data = EvaluationImages(images, labels, "test set") if labelled else EvaluationImages(images, None, "held-out synthetic")
    teacher = MeasuredModel(make_classifier(8, classes), "big", "abc", 4096)
    return evaluate(teacher, MeasuredModel(make_classifier(3, classes), "small", "def", 1024), data, config)


@pytest.fixture
def report() -> EvaluationReport:
    return make_report()


def render(report: EvaluationReport) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None).print(table(report))
    return stream.getvalue()


def test_predict_is_a_plain_float32_eval_forward_pass() -> None:
    classifier, (images, _) = make_classifier(4).train(), make_images()
    found = predict(classifier, images, 8)
    assert classifier.training
    assert classifier.network[1].training
    wanted = classifier.eval()(images.float() / 255).detach()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize("batch", [1, 7, 30, 500])
def test_predict_does_not_depend_on_the_batch_size(batch: int) -> None:
    classifier, (images, _) = make_classifier(4), make_images()
    torch.testing.assert_close(predict(classifier, images, batch), predict(classifier, images, 4), rtol=1e-5, atol=1e-6)


def test_predict_ignores_an_outer_autocast() -> None:
    classifier, (images, _) = make_classifier(4), make_images()
    wanted = predict(classifier, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predict(classifier, images)
    assert torch.equal(found, wanted)


def test_predict_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    predict(make_classifier(4), make_images()[0], 16, lambda done, total: told.append((done, total)))
    assert told == [(16, 30), (30, 30)]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(0, 2, 6, 6, dtype=torch.uint8), "no images to evaluate"),
        (torch.zeros(3, 2, 6, 6), "torch.float32"),
        (torch.zeros(3, 1, 6, 6, dtype=torch.uint8), r"\(3, 1, 6, 6\).*\(2, 6, 6\)"),
    ],
)
def test_predict_refuses_images_that_do_not_fit(images: Tensor, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        predict(make_classifier(4), images)


def test_logits_that_are_not_finite_are_an_error() -> None:
    classifier = make_classifier(4)
    classifier.network[-1].bias.data[2] = torch.nan
    with pytest.raises(ConfigError, match="30 of 30 images are not finite"):
        predict(classifier, make_images()[0])


def test_a_model_beside_itself_agrees_fully() -> None:
    images, labels = make_images()
    one = MeasuredModel(make_classifier(4))
    found = evaluate(one, one, EvaluationImages(images, labels, "test set"), SILENT)
    assert found.agreement.agreed == 30
    assert found.agreement.kl == 0.0
    assert found.teacher == found.student


def test_teacher_and_student_are_not_mixed_up(report: EvaluationReport) -> None:
    images, labels = make_images()
    for model, width in ((report.teacher, 8), (report.student, 3)):
        logits = make_classifier(width).eval()(images.float() / 255)
        assert model.accuracy.correct == int((logits.argmax(1) == labels).sum())
        assert model.cost.parameters == sum(p.numel() for p in make_classifier(width).parameters())
    assert (report.teacher.name, report.teacher.sha256, report.teacher.cost.weights_bytes) == ("big", "abc", 4096)
    assert report.teacher.accuracy.correct != report.student.accuracy.correct
    assert report.agreement == Agreement.measure(*(predict(make_classifier(width), images, 7) for width in (8, 3)))


def test_scores_do_not_depend_on_the_batch_size() -> None:
    images, labels = make_images()
    data = EvaluationImages(images, labels, "test set")
    pair = MeasuredModel(make_classifier(8)), MeasuredModel(make_classifier(3))
    found = [evaluate(*pair, data, EvaluationConfig(batch=batch, latency=False)) for batch in (1, 30)]
    assert found[0].student.accuracy == found[1].student.accuracy
    assert found[0].agreement.kl == pytest.approx(found[1].agreement.kl, rel=1e-5)


def test_without_labels_only_agreement_is_measured_and_the_source_is_said() -> None:
    found = make_report(labelled=False)
    assert not found.labelled
    assert found.source == "held-out synthetic"
    assert found.student.accuracy.total == 0
    assert found.agreement.total == 30
    assert not {"student/top1", "teacher/ece", "student/total"} & set(flat_metrics(found))
    assert "held-out synthetic" in render(found)
    assert "top-1" not in render(found)


@pytest.mark.parametrize(
    ("student", "labels", "sentence"),
    [
        (
            make_classifier(3, classes=6),
            None,
            "tells 6 classes apart which are others than the teacher's 7, so their answers cannot be compared",
        ),
        (make_classifier(3, size=5), None, r"\(2, 5, 5\) but the teacher \(2, 6, 6\)"),
        (make_classifier(3), torch.zeros(29, dtype=torch.long), "30 images with 29 labels"),
        (make_classifier(3), torch.full((30,), 7), "Labels go from 7 to 7, .* 0 to 6"),
        (make_classifier(3), torch.full((30,), -1), "Labels go from -1"),
    ],
)
def test_what_does_not_fit_is_refused(student: Classifier, labels: Tensor | None, sentence: str) -> None:
    data = EvaluationImages(make_images()[0], labels, "test set")
    with pytest.raises(ConfigError, match=sentence):
        evaluate(MeasuredModel(make_classifier(8)), MeasuredModel(student), data, SILENT)


def test_a_student_of_other_classes_is_scored_on_its_own_labels_and_compared_with_nobody(tmp_path: Path) -> None:
    images, labels = make_images(classes=6)
    student = MeasuredModel(make_classifier(3, classes=6), "small", snapshots={"epochs/000001": lambda: make_classifier(4, classes=6)})
    found = evaluate(MeasuredModel(make_classifier(8)), student, EvaluationImages(images, labels, "test set"), SILENT)
    logits = predict(make_classifier(3, classes=6), images)
    assert found.student.accuracy.correct == int((logits.argmax(1) == labels).sum())
    assert (found.class_names, found.teacher_classes) == (student.classifier.class_names, make_classifier(8).class_names)
    assert (found.agreement, found.teacher.accuracy.total, found.snapshots[0].agreement) == (Agreement(), 0, 0)
    assert found.snapshots[0].total == 30
    assert found.teacher.cost.parameters == sum(p.numel() for p in make_classifier(8).parameters())
    flat = flat_metrics(found)
    assert not {"agreement", "kl", "teacher/top1", "teacher/total"} & set(flat)
    assert flat["student/top1"] == found.student.accuracy.top1
    assert "not compared: its classes are others than the teacher's" in render(found)
    assert "KL" not in render(found)
    save_report(tmp_path / "report.json", found, PROVENANCE)
    assert load_report(tmp_path / "report.json") == found


def test_classes_of_other_names_are_other_classes() -> None:
    images, labels = make_images()
    other = make_classifier(3)
    other.class_names = tuple(f"other {number}" for number in range(7))
    found = evaluate(MeasuredModel(make_classifier(8)), MeasuredModel(other), EvaluationImages(images, labels, "test set"), SILENT)
    assert not found.compared


def test_empty_data_is_refused() -> None:
    data = EvaluationImages(torch.zeros(0, 2, 6, 6, dtype=torch.uint8), torch.zeros(0, dtype=torch.long), "test set")
    with pytest.raises(ConfigError, match="no images"):
        evaluate(MeasuredModel(make_classifier(8)), MeasuredModel(make_classifier(3)), data, SILENT)


def test_flat_metrics_have_stable_names(report: EvaluationReport) -> None:
    each = ("parameters", "flops", "bytes", "latency_ms_batch1", "latency_ms_batch2", "top1", "top5", "ece", "correct", "total")
    found = flat_metrics(report)
    assert set(found) == {"agreement", "kl", "images", *(f"{role}/{name}" for role in ("teacher", "student") for name in each)}
    assert all(type(value) is float for value in found.values())
    assert found["student/correct"] / found["student/total"] == found["student/top1"] == report.student.accuracy.top1
    assert found["agreement"] == report.agreement.rate


@pytest.mark.parametrize("labelled", [True, False])
def test_last_and_best_epoch_are_both_reported(labelled: bool) -> None:
    images, labels = make_images()
    last, best = make_classifier(3), make_classifier(5)
    student = MeasuredModel(last, "small", snapshots={"epochs/000002": lambda: last, "best": lambda: best})
    data = EvaluationImages(images, labels if labelled else None, "test set" if labelled else "held-out synthetic")
    found = evaluate(MeasuredModel(make_classifier(8)), student, data, SILENT)
    metrics, shown = flat_metrics(found), render(found)
    agreed = Agreement.measure(*(predict(model, images, 7) for model in (make_classifier(8), best))).rate
    correct = int((predict(best, images, 7).argmax(1) == labels).sum())
    assert metrics["best/agreement"] == agreed != metrics["agreement"]
    assert ("best/top1" in metrics) is labelled
    assert f"agrees {agreed:.2%}" in shown
    assert (f"({correct}/30)" in shown) is labelled
    if labelled:
        assert metrics["best/top1"] == correct / 30


def test_the_best_epoch_says_which_it_was_and_on_how_many_images_it_was_chosen() -> None:
    images, labels = make_images()
    snapshots = {"epochs/000002": lambda: make_classifier(5), "best": lambda: make_classifier(5)}
    data = EvaluationImages(images, labels, "test set")
    known = MeasuredModel(make_classifier(3), "small", snapshots=snapshots, chosen=Chosen(1367, 1280))
    found = evaluate(MeasuredModel(make_classifier(8)), known, data, SILENT)
    assert [(score.epoch, score.chosen_on) for score in found.snapshots] == [(0, 0), (1367, 1280)]
    assert "best epoch, 1,367, by 1,280 held-out images" in render(found)
    unknown = evaluate(MeasuredModel(make_classifier(8)), replace(known, chosen=Chosen()), data, SILENT)
    assert "best epoch by held-out images" in render(unknown)


def test_five_classes_have_no_top5_and_silence_has_no_latency() -> None:
    found = make_report(config=SILENT, classes=5)
    assert not {"student/top5", "student/latency_ms_batch1"} & set(flat_metrics(found))
    assert "top-5" not in render(found)
    assert "latency" not in render(found)


def test_the_table_shows_both_models(report: EvaluationReport) -> None:
    shown = render(report)
    correct = f"({report.student.accuracy.correct}/30)"
    texts = ("teacher big", "student small", correct, "top-5", "CPU latency, batch 2, 1 thread", "4 KiB", "30 images: test set")
    assert [text for text in texts if text not in shown] == []


def test_a_report_survives_its_file(tmp_path: Path, report: EvaluationReport) -> None:
    save_report(tmp_path / "report.json", report, PROVENANCE)
    assert load_report(tmp_path / "report.json") == report
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["format"], document["version"]) == ("distillery-evaluation", 4)
    assert document["provenance"]["inputs"] == {"teacher": "abc"}
    assert sum(count for _, _, count in document["student"]["accuracy"]["confusion"]) == 30


def test_reports_that_cannot_be_read_are_refused(tmp_path: Path, report: EvaluationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(MissingResourceError, match="evaluate step"):
        load_report(path)
    path.write_text('{"format": "other", "version": 1}')
    with pytest.raises(CheckpointMismatchError, match="distillery-evaluation"):
        load_report(path)
    path.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        load_report(path)
    monkeypatch.setattr(module, "FORMAT", replace(module.FORMAT, version=5))
    save_report(path, report, PROVENANCE)
    monkeypatch.undo()
    with pytest.raises(CheckpointMismatchError, match="version 5"):
        load_report(path)


def test_a_report_with_whole_matrices_is_read_as_before(tmp_path: Path, report: EvaluationReport) -> None:
    save_report(tmp_path / "now.json", report, PROVENANCE)
    document = json.loads((tmp_path / "now.json").read_text())
    for role in ("teacher", "student"):
        scores = document[role]["accuracy"]
        scores["confusion"] = whole_matrix(scores["confusion"], len(report.class_names))
    (tmp_path / "then.json").write_bytes(seal({**document, "version": 2}))
    assert load_report(tmp_path / "then.json") == report
    document["student"]["accuracy"]["confusion"][1] = None
    (tmp_path / "then.json").write_bytes(seal({**document, "version": 2}))
    with pytest.raises(StoreError, match="is damaged"):
        load_report(tmp_path / "then.json")
