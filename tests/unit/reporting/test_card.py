"""The model card: every number is the files', and what no file says is not said."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.data.manifest import SetHeader, SetManifest
from distillery.data.store import SetWriter, SyntheticSet
from distillery.errors import CheckpointMismatchError, MissingResourceError
from distillery.evaluation.accuracy import ClassAccuracy
from distillery.evaluation.features import Features
from distillery.evaluation.health import HealthConfig, measure_health, save_health
from distillery.evaluation.report import (
    EvaluationConfig,
    EvaluationImages,
    EvaluationReport,
    MeasuredModel,
    SnapshotScore,
    evaluate,
    save_report,
)
from distillery.models.bundle import read_bundle, save_classifier
from distillery.models.catalog import build_network
from distillery.provenance import Provenance
from distillery.reporting.card import CardSources, model_card, open_sources
from distillery.reporting.words import interval
from distillery.storage import MemoryStore
from distillery.types import Classifier
from fakes import CLASSES, SPEC, TINY, quadrants
from sets import publish_set

TEACHER = "7" * 64
CONFIG = {"method": "ls_gdfd", "precision": "auto", "student": {"keep_epochs": 0}}


def make_set(provenance: Provenance, counts: tuple[int, ...] = (5, 4, 3, 0), shortfall: tuple[int, ...] = (0, 0, 0, 2)) -> SetManifest:
    store = MemoryStore()
    header = SetHeader(shape=SPEC.shape, num_classes=4, teacher_sha256=TEACHER, synthesizer_sha256="5" * 64, provenance=provenance)
    writer = SetWriter(store, header)
    labels = torch.tensor([index for index, count in enumerate(counts) for _ in range(count)])
    images = torch.randint(0, 256, (len(labels), *SPEC.shape), dtype=torch.uint8)
    writer.append(images, labels.roll(1), torch.nn.functional.one_hot(labels, 4).float())
    writer.append(images[:2], None, torch.eye(4)[:2], "holdout")
    publish_set(writer, shortfall)
    return SyntheticSet(store).manifest


def make_bundle(folder: Path, provenance: Provenance, names: tuple[str, ...] = CLASSES) -> str:
    torch.manual_seed(1)
    return save_classifier(folder, Classifier(build_network(TINY, SPEC, len(names)), SPEC, names), TINY, provenance)


def make_report(labelled: bool, sha256: str, teacher_sha256: str = TEACHER, **update: Any) -> EvaluationReport:
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(0)
    images, labels = quadrants(37, draws)
    labels[labels == 3] = 2  # the last class is never seen
    pixels = (images.clamp(0, 1) * 255).to(torch.uint8)
    data = EvaluationImages(pixels, labels, "test set") if labelled else EvaluationImages(pixels, None, "training synthetic")
    models = [Classifier(build_network(TINY, SPEC, 4), SPEC, CLASSES) for _ in range(2)]
    teacher, student = MeasuredModel(models[0], "big_net", teacher_sha256, 9000), MeasuredModel(models[1], "wrn_10_1", sha256, 4000)
    return evaluate(teacher, student, data, EvaluationConfig(latency=False)).model_copy(update=update)


@pytest.fixture
def manifest() -> SetManifest:
    return make_set(Provenance(config={"method": "ls_gdfd"}, code_version="3" * 64))


@pytest.fixture
def whole(tmp_path: Path, manifest: SetManifest) -> CardSources:
    digest = CardSources(bundle=None, sha256="", provenance=None, manifest=manifest).manifest_sha256  # type: ignore[arg-type]
    origin = Provenance(inputs={"teacher": TEACHER, "set": digest}, config=CONFIG, seeds={"run": 4}, code_version="2" * 64)
    sha256 = make_bundle(tmp_path / "b", origin)
    save_report(tmp_path / "report.json", make_report(True, sha256), origin)
    return open_sources(tmp_path / "b", tmp_path / "report.json", manifest)


def test_says_what_the_files_say(whole: CardSources) -> None:
    card = model_card(whole)
    assert card.startswith(f"# wrn\\_10\\_1, 4 classes, {whole.bundle.parameters:,} parameters\n")
    assert "| architecture | wrn\\_10\\_1 (base\\_width = 8) |" in card
    assert "| method | LS-GDFD, arXiv:2012.05578 (2020) |" in card
    assert "| precision | `auto` |" in card
    assert "| seed of run | 4 |" in card
    assert "The step that wrote the weights was given: set, teacher." in card
    assert "12 training images of 1 x 8 x 8 and 2 withheld ones" in card
    assert "each class has 0 to 5 training images" in card
    assert f"The teacher puts {whole.manifest.agreed} of the 12 that were asked for by class" in card  # type: ignore[union-attr]
    assert '"method": "ls_gdfd"' in card


def test_numbers_stand_beside_the_teachers_with_n(whole: CardSources) -> None:
    report = whole.report
    assert report is not None
    card = model_card(whole)
    assert "On 37 images (test set)" in card
    row = re.search(r"\| top-1 \| (.*) \| (.*) \|", card)
    assert row is not None
    for said, model in zip(row.groups(), (report.teacher, report.student), strict=True):
        low, high = interval(model.accuracy.correct, 37)
        assert said == f"{model.accuracy.top1:.2%} ({model.accuracy.correct} of 37; {low:.1%} to {high:.1%})"
    assert "top-5" not in card
    assert f"| same class as the teacher |  | {report.agreement.rate:.2%} ({report.agreement.agreed} of 37;" in card
    assert "| weights file | 9,000 bytes | 4,000 bytes |" in card


def test_the_best_epoch_says_on_how_many_images_it_was_chosen(whole: CardSources) -> None:
    assert whole.report is not None
    assert "best epoch" not in model_card(whole)
    best = SnapshotScore(name="best", agreement=0.5, correct=9, total=37, epoch=1367, chosen_on=1280)
    card = model_card(replace(whole, report=whole.report.model_copy(update={"snapshots": (best,)})))
    assert "| its best epoch (1,367), chosen on 1,280 held-out images |  | same class as the teacher 50.00%; top-1 24.32%" in card
    unknown = best.model_copy(update={"epoch": 0, "chosen_on": 0})
    card = model_card(replace(whole, report=whole.report.model_copy(update={"snapshots": (unknown,)})))
    assert "| its best epoch, chosen on held-out images |" in card


def test_limits_come_from_the_data(whole: CardSources) -> None:
    card = model_card(whole)
    assert "- Accuracy, calibration and agreement are from these 37 images (test set); the report measured no others." in card
    assert "- No image of these classes was among them: bottom right." in card
    assert "- The set has no training image that the teacher puts into: bottom right." in card
    assert "- The set is short of 2 images that its quotas asked for." in card
    assert "- The health of the set was not given." in card
    assert "latencies" not in card
    assert "weakest" not in card, "all its classes are equally bad"


def test_weakest_classes_are_named_where_they_differ(whole: CardSources) -> None:
    assert whole.report is not None
    report, student = whole.report, whole.report.student
    rates = [ClassAccuracy(name=name, correct=hit, total=10) for name, hit in zip("abcd", (9, 2, 10, 7), strict=True)]
    accuracy = student.accuracy.model_copy(update={"per_class": tuple(rates), "correct": report.teacher.accuracy.correct - 2})
    card = model_card(replace(whole, report=report.model_copy(update={"student": student.model_copy(update={"accuracy": accuracy})})))
    assert "- Its weakest classes: b 20.0% (2 of 10), d 70.0% (7 of 10), a 90.0% (9 of 10)." in card
    assert "- The student names 2 fewer of these images right than its teacher." in card


def test_health_is_repeated(whole: CardSources, tmp_path: Path) -> None:
    assert whole.manifest is not None
    features = Features(torch.ones(12, 4), "fc")
    sick = measure_health(whole.manifest.counts, torch.zeros(12, 4), features, HealthConfig())
    assert sick.findings
    card = model_card(replace(whole, health=sick))
    assert all(finding.split(":")[0] in card for finding in sick.findings)
    well = sick.model_copy(update={"findings": ()})
    assert "found nothing, on 12 of its images" in model_card(replace(whole, health=well))
    save_health(tmp_path / "health.json", sick, whole.provenance)
    with pytest.raises(CheckpointMismatchError, match="not of the given set"):
        replace(whole, health=sick.model_copy(update={"counts": (3, 4, 5, 0)})).check()
    open_sources(tmp_path / "b", manifest=whole.manifest, health=tmp_path / "health.json")
    with pytest.raises(CheckpointMismatchError, match="not of the given set"):
        open_sources(tmp_path / "b", health=tmp_path / "health.json")


def test_every_hash_of_the_lineage_is_there(whole: CardSources) -> None:
    card = model_card(replace(whole, files={"student.onnx": "a" * 64}))
    for digest in (whole.sha256, whole.bundle.weights_sha256, TEACHER, whole.manifest_sha256, "5" * 64, "2" * 64, "a" * 64):
        assert f"`{digest}`" in card


def test_a_bundle_alone_claims_nothing(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", Provenance(inputs={"checkpoint": "c" * 64}, code_version="2" * 64))
    card = model_card(open_sources(tmp_path / "b"))
    assert "No evaluation report was given." in card
    assert "Imported from a checkpoint; the bundle does not say how that was trained." in card
    assert "nothing is said about what the student was trained on" in card
    for word in ("%", "teacher |", "synthetic set holds", "precision", "seed"):
        assert word not in card


def test_without_labels_no_accuracy_is_claimed(whole: CardSources) -> None:
    card = model_card(replace(whole, report=make_report(False, whole.sha256)))
    assert "top-1" not in card
    assert "calibration" not in card
    assert "the accuracy of the student, and of its teacher, is not known" in card
    assert "trained on the very images that it was measured on" in card


def test_ways_to_load_follow_the_files(whole: CardSources) -> None:
    none = model_card(whole)
    assert none.count("`distillery export-student` writes the file") == 2
    assert "uint8" not in none
    both = model_card(replace(whole, files={"student.pt2": "a", "student.uint8.onnx": "b"}))
    assert 'torch.export.load("student.pt2")' in both
    assert 'InferenceSession("student.uint8.onnx"' in both
    assert "its pixels are uint8 in 0 to 255" in both
    assert "`distillery export-student` writes the file" not in both


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", Provenance(code_version="2" * 64), ("a|b", "<script>", "*c*", "d\ne"))
    assert "| classes | a\\|b, &lt;script>, \\*c\\*, d e |" in model_card(open_sources(tmp_path / "b"))


def test_many_classes_are_cut(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", Provenance(code_version="2" * 64), tuple(f"n{index}" for index in range(130)))
    assert "n99 and 30 more |" in model_card(open_sources(tmp_path / "b"))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"sha256": "9" * 64}, "is of the student 999999999999, not of"),
        ({"teacher_sha256": "8" * 64}, "compares with the teacher 888888888888, but the student was made from 777777777777"),
    ],
)
def test_files_of_others_are_refused(report: dict[str, str], said: str, whole: CardSources) -> None:
    with pytest.raises(CheckpointMismatchError, match=said):
        replace(whole, report=make_report(True, **{"sha256": whole.sha256, **report})).check()


def test_a_set_of_another_run_is_refused_and_that_of_the_same_step_is_not(whole: CardSources) -> None:
    other = make_set(Provenance(config={"method": "fast_dfkd"}, code_version="3" * 64))
    with pytest.raises(CheckpointMismatchError, match="is not the one that the student"):
        replace(whole, manifest=other).check()
    online = Provenance(inputs={"teacher": TEACHER}, config={"method": "fast_dfkd"}, code_version="3" * 64)
    sources = replace(whole, provenance=online, manifest=make_set(online))
    sources.check()
    assert "FastDFKD" in model_card(sources)


def test_missing_report(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", Provenance(code_version="2" * 64))
    assert read_bundle(tmp_path / "b")[0].num_classes == 4
    with pytest.raises(MissingResourceError, match="no evaluation report"):
        open_sources(tmp_path / "b", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_interval_is_wilsons(correct: int, total: int, low: float, high: float) -> None:
    assert interval(correct, total) == pytest.approx((low, high), abs=6e-5)
