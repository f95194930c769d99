import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import distillery
from distillery.data.manifest import SetHeader
from distillery.data.reference import read_reference, write_reference
from distillery.data.store import SetWriter
from distillery.documents import seal
from distillery.errors import CheckpointMismatchError, ConfigError, StoreError
from distillery.evaluation.report import load_report
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.seeding import seeded
from distillery.steps import evaluate as evaluate_module
from distillery.steps.evaluate import MAX_SHOWN_CLASSES, Inputs, Outputs, choose_images, log_confusion, run
from distillery.storage import open_store
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.cli import app as cli
from sets import publish_set

PROVENANCE = Provenance(code_version="1")
SETTINGS = {"batch": 16, "timing": {"batches": [1, 2], "warmup": 1, "repeats": 3}}


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")


def make_bundle(folder: Path, name: str, classes: int = 4, size: int = 16) -> str:
    spec = ImageSpec(channels=1, height=size, width=size, mean=(0.3,), std=(0.4,))
    architecture = Architecture(name=name)
    with seeded(1, name):
        network = build_network(architecture, spec, classes)
    return save_classifier(folder, Classifier(network, spec, tuple(f"class {i}" for i in range(classes))), architecture, PROVENANCE)


def make_images(n: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def make_set(folder: Path, store: Path, teacher_sha256: str, holdout: int) -> None:
    header = SetHeader(shape=(1, 16, 16), num_classes=4, teacher_sha256=teacher_sha256, provenance=PROVENANCE)
    writer = SetWriter(open_store(str(store)), header)
    writer.append(make_images(9, 1), None, torch.zeros(9, 4))
    if holdout:
        writer.append(make_images(holdout, 2), None, torch.zeros(holdout, 4), "holdout")
    write_reference(folder, publish_set(writer))


def make_data(path: Path, n: int = 20, classes: int = 4, size: int = 16) -> str:
    labels = np.arange(n) % classes
    np.savez(path, images=make_images(n, 3, size).numpy(), labels=labels)
    return str(path)


class Bench:
    """A teacher, a student, a set and a way to evaluate them."""

    def __init__(self, root: Path, holdout: int = 5) -> None:
        self.root = root
        self.teacher_sha256 = make_bundle(root / "teacher", "wrn_16_1")
        self.student_sha256 = make_bundle(root / "student", "resnet8")
        make_set(root / "set", root / "store" / "set", self.teacher_sha256, holdout)

    def run(self, data: str = "", **changes: Any) -> dict[str, float]:
        common = {"seed": 0.0, "code_version": code_version(), "teacher_sha256": self.teacher_sha256}
        section = {**common, "evaluation": SETTINGS, **changes}
        inputs = Inputs(teacher_uri=str(self.root / "teacher"), student=self.root / "student", set=self.root / "set", eval_data_uri=data)
        return run(section, inputs, Outputs(report=self.root / "report.json"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_training_images_are_taken_from_the_whole_set_and_not_from_its_first_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = make_bundle(tmp_path / "teacher", "wrn_16_1")
    store = open_store(str(tmp_path / "store" / "set"))
    writer = SetWriter(store, SetHeader(shape=(1, 16, 16), num_classes=4, teacher_sha256=sha256, provenance=PROVENANCE))
    for level in (0, 1, 2):
        writer.append(torch.full((20, 1, 16, 16), level, dtype=torch.uint8), None, torch.zeros(20, 4))
    write_reference(tmp_path / "set", publish_set(writer))
    teacher = load_classifier(tmp_path / "teacher")
    whole, _ = choose_images(teacher, "", tmp_path / "set", sha256)
    assert whole.images[:, 0, 0, 0].bincount().tolist() == [20, 20, 20]
    monkeypatch.setattr(evaluate_module, "MAX_TRAINING_IMAGES", 30)
    some, _ = choose_images(teacher, "", tmp_path / "set", sha256)
    again, _ = choose_images(teacher, "", tmp_path / "set", sha256)
    assert len(some.images) == 30
    assert min(some.images[:, 0, 0, 0].bincount(minlength=3).tolist()) >= 5
    assert torch.equal(some.images, again.images)
    assert some.source == "training synthetic"


def test_a_test_set_gives_accuracy_of_both(bench: Bench, tmp_path: Path) -> None:
    metrics = bench.run(make_data(tmp_path / "test.npz"))
    report = load_report(tmp_path / "report.json")
    assert report.source == "test set"
    assert (report.teacher.name, report.student.name) == ("wrn_16_1", "resnet8")
    assert (report.teacher.sha256, report.student.sha256) == (bench.teacher_sha256, bench.student_sha256)
    assert report.student.cost.weights_bytes == (tmp_path / "student" / "weights.safetensors").stat().st_size
    for role in ("teacher", "student"):
        logits = load_classifier(tmp_path / role).eval()(make_images(20, 3).float() / 255)
        assert metrics[f"{role}/correct"] == int((logits.argmax(1) == torch.arange(20) % 4).sum())
        assert metrics[f"{role}/total"] == 20


def logged(report: Path) -> list[tuple[list[str], list[list[int]]]]:
    """What reaches the platform's own display."""
    seen: list[tuple[list[str], list[list[int]]]] = []
    log_confusion(report, lambda names, matrix: seen.append((names, matrix)))
    return seen


def test_the_confusion_matrix_is_the_students(bench: Bench, tmp_path: Path) -> None:
    metrics = bench.run(make_data(tmp_path / "test.npz"))
    [(names, matrix)] = logged(tmp_path / "report.json")
    assert names == [f"class {i}" for i in range(4)]
    assert [sum(row) for row in matrix] == [5, 5, 5, 5]
    assert sum(matrix[k][k] for k in range(4)) == metrics["student/correct"]


@pytest.mark.parametrize(("most", "shown"), [(3, 0), (4, 1)])
def test_the_platform_gets_a_confusion_matrix_up_to_so_many_classes(
    most: int, shown: int, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_SHOWN_CLASSES == 30
    monkeypatch.setattr("distillery.steps.evaluate.MAX_SHOWN_CLASSES", most)
    bench.run(make_data(tmp_path / "test.npz"))
    assert len(logged(tmp_path / "report.json")) == shown
    assert load_report(tmp_path / "report.json").student.accuracy.confusion  # the report keeps it whole


def test_without_a_test_set_the_held_out_images_count(bench: Bench, tmp_path: Path) -> None:
    metrics = bench.run()
    report = load_report(tmp_path / "report.json")
    assert report.source == "held-out synthetic"
    images = make_images(5, 2).float() / 255
    answers = [load_classifier(tmp_path / role).eval()(images).argmax(1) for role in ("teacher", "student")]
    assert metrics["agreement"] * 5 == pytest.approx(int((answers[0] == answers[1]).sum()))
    assert "student/top1" not in metrics
    assert logged(tmp_path / "report.json") == []


def test_a_set_without_holdout_is_said_to_be_what_was_trained_on(tmp_path: Path) -> None:
    assert Bench(tmp_path, holdout=0).run()["images"] == 9
    assert load_report(tmp_path / "report.json").source == "training synthetic"


def test_a_test_set_needs_no_synthetic_set(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "set").rename(tmp_path / "gone")
    assert bench.run(make_data(tmp_path / "test.npz"))["images"] == 20


def test_inputs_stand_in_the_provenance(bench: Bench, tmp_path: Path) -> None:
    bench.run(make_data(tmp_path / "test.npz"))
    inputs = json.loads((tmp_path / "report.json").read_text())["provenance"]["inputs"]
    assert inputs["teacher"] == bench.teacher_sha256
    assert inputs["student"] == bench.student_sha256
    assert len(inputs["eval_data"]) == 64
    bench.run()
    inputs = json.loads((tmp_path / "report.json").read_text())["provenance"]["inputs"]
    assert inputs["set"] == read_reference(tmp_path / "set").sha256


def test_it_is_measured_anew_each_time(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    (tmp_path / "report.json").unlink()
    bench.run()
    assert (tmp_path / "report.json").exists()


def test_the_first_report_of_a_run_stands_for_a_worker_who_comes_late(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    kept = tmp_path / "store" / "runs" / "run-1" / "evaluation.json"
    data = make_data(tmp_path / "test.npz")
    bench.run(data)
    first = {**json.loads(kept.read_bytes())}
    first["images"] = 21  # times differ between two workers, and here this does
    kept.write_bytes(seal(first))
    assert bench.run(data)["images"] == 21
    assert (tmp_path / "report.json").read_bytes() == kept.read_bytes() == seal(first)


@pytest.mark.parametrize("before", ["of another seed", "damaged", "of other code"])
def test_a_report_of_other_work_under_a_resumed_run_is_replaced(
    before: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    kept = tmp_path / "store" / "runs" / "run-1" / "evaluation.json"
    data = make_data(tmp_path / "test.npz")
    if before == "of other code":
        with monkeypatch.context() as patch:
            patch.setattr("distillery.workbench.bench.step_version", lambda step: "other")
            bench.run(data)
    else:
        bench.run(data, seed=1)
    stale = kept.read_bytes()
    if before == "damaged":
        kept.write_bytes(stale[:50])
    bench.run(data)
    assert (tmp_path / "report.json").read_bytes() == kept.read_bytes() != stale


def test_data_of_another_size_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 x 8 x 8"):
        bench.run(make_data(tmp_path / "small.npz", size=8))
    assert not (tmp_path / "report.json").exists()


def test_labels_of_other_classes_are_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label 4"):
        bench.run(make_data(tmp_path / "test.npz", classes=5))


@pytest.mark.parametrize(
    ("change", "sentence"), [({"classes": 3}, "tells 3 classes apart which are others than"), ({"size": 32}, "expects images")]
)
def test_a_student_of_another_teacher_is_refused(bench: Bench, tmp_path: Path, change: dict[str, int], sentence: str) -> None:
    make_bundle(tmp_path / "student", "resnet8", **change)
    with pytest.raises(ConfigError, match=sentence):
        bench.run()


def test_another_teacher_than_planned_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="teacher"):
        bench.run(make_data(tmp_path / "test.npz"), teacher_sha256="0" * 64)


def test_a_set_of_another_teacher_is_refused(bench: Bench, tmp_path: Path) -> None:
    make_set(tmp_path / "set", tmp_path / "store" / "other", "1" * 64, 5)
    with pytest.raises(CheckpointMismatchError):
        bench.run()


def test_a_damaged_holdout_shard_is_an_error(bench: Bench, tmp_path: Path) -> None:
    for shard in (tmp_path / "store" / "set" / "shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StoreError, match="damaged"):
        bench.run()


def test_two_bundles_can_be_compared_without_a_pipeline(bench: Bench, tmp_path: Path) -> None:
    metrics = bench.run(data := make_data(tmp_path / "test.npz"))
    report = distillery.evaluate(tmp_path / "student", tmp_path / "teacher", data)
    assert report.student.accuracy.correct == metrics["student/correct"]
    assert report.teacher.sha256 == read_bundle(tmp_path / "teacher")[1]


def test_bundles_without_data_are_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No labelled images"):
        distillery.evaluate(tmp_path / "student", tmp_path / "teacher", "")


def test_the_command_measures_with_the_threads_it_is_given(bench: Bench, tmp_path: Path) -> None:
    places = ["--teacher", tmp_path / "teacher", "--data", make_data(tmp_path / "test.npz"), "--json", tmp_path / "report.json"]
    try:
        done = CliRunner().invoke(cli.app, ["evaluate", *map(str, [tmp_path / "student", *places]), "--device", "cpu", "--threads", "2"])
    finally:
        torch.set_num_threads(1)
    assert done.exit_code == 0, done.output
    report = load_report(tmp_path / "report.json")
    assert {latency.threads for model in (report.teacher, report.student) for latency in model.cost.latency} == {2}
