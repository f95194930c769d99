"""The step that scores a student beside its teacher; the only one that is given the test set, and never cached."""

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from distillery.data.given import is_of_images, load_given, read_facts, withhold
from distillery.data.manifest import MANIFEST
from distillery.data.real import load_labelled
from distillery.data.reference import open_reference, read_reference
from distillery.data.shards import sample_shards
from distillery.data.store import SyntheticSet
from distillery.errors import ConfigError, DistilleryError
from distillery.evaluation.accuracy import whole_matrix
from distillery.evaluation.report import (
    FORMAT,
    MAX_TRAINING_IMAGES,
    EvaluationImages,
    EvaluationReport,
    MeasuredModel,
    evaluate,
    flat_metrics,
    load_report,
    save_report,
)
from distillery.evaluation.table import table
from distillery.ledger.page import PageCollector
from distillery.models.bundle import DOCUMENT, VerifiedBundle, fetch_bundle, load_classifier
from distillery.recipes.sections import EvaluationSection
from distillery.reporting.render import render
from distillery.runtime import Runtime
from distillery.seeding import stream
from distillery.step_table import PageFile, ReportFile, SetFolder, StudentFolder
from distillery.storage import join_uri, open_store
from distillery.types import Classifier
from distillery.workbench.accelerators import check_promise
from distillery.workbench.bench import Workbench, reporting, workbench, workspace
from distillery.workbench.given import GivenSource
from distillery.workbench.keys import key_of
from distillery.workbench.lineage import evaluation_of, page_of, run_identity
from distillery.workbench.students import read_choice

logger = logging.getLogger(__name__)

STEP = "evaluate"
MAX_SHOWN_CLASSES = 30
"""Classes up to which a confusion matrix is handed to the platform, whose metadata it fills with K x K numbers; the report has it whole."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        teacher_uri: the teacher's bundle, a folder or a URI.
        student: whose score is asked for.
        set: the reference to what it was trained on, which is read only without test images.
        eval_data_uri: labelled images; "" measures agreement on the set's held-out images.
        accelerators: how many the cluster was asked for.
    """

    teacher_uri: str
    student: StudentFolder
    set: SetFolder
    eval_data_uri: str = ""
    accelerators: str = "0"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes.

    Attributes:
        report: the numbers.
        page: everything about the run; None writes none.
    """

    report: ReportFile
    page: PageFile | None = None


@reporting(STEP)
def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Score a student beside its teacher.

    Args:
        section: an `EvaluationSection` as JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        `evaluation.report.flat_metrics` of the report.

    Raises:
        ConfigError: a promised accelerator that is not there, a student of another image size, one of other classes than the teacher's
            without labelled images, or data that does not fit.
        CheckpointMismatchError: another teacher than the plan was made for, or a set of another teacher.
        MissingResourceError: no such bundle, set or data.
        StoreError: bytes that fail their hash, or a report that cannot be written.
    """
    check_promise(inputs.accelerators)
    parsed = EvaluationSection.parse(section, "evaluation")
    teacher = open_model(fetch_bundle(inputs.teacher_uri, workspace() / "bundles"), parsed.teacher_sha256)
    student = open_model(inputs.student)
    data, digest = choose_images(student.classifier, inputs.eval_data_uri, inputs.set, parsed.teacher_sha256)
    measured_on = "eval_data" if data.labels is not None else "images" if data.source in ("training images", "held-out images") else "set"
    with workbench(STEP, parsed, {"teacher": teacher.sha256, "student": student.sha256, measured_on: digest}) as bench:
        _place(bench.runtime, teacher, student)
        report = evaluate(teacher, student, data, parsed.evaluation, bench.progress.tick)
        save_report(outputs.report, report, bench.provenance)
        if run := run_identity():  # where no runner publishes anything, this is where an auditor finds it
            report = _first_of(bench, evaluation_of(run), outputs.report)
        _observe(bench, report, inputs.eval_data_uri or _place_of(inputs.set), digest)
        if outputs.page is not None:
            collector = PageCollector(bench.store, parsed, report, outputs.report, inputs.teacher_uri, inputs.student, inputs.set)
            _write_page(bench, render(collector.collect()), outputs.page)
            if run:
                bench.store.write(page_of(run), outputs.page.read_bytes())
        return flat_metrics(report)


def open_model(folder: Path, expected_sha256: str = "") -> MeasuredModel:
    """A bundle as a model to measure, frozen, on the CPU.

    Args:
        folder: the bundle.
        expected_sha256: refuse any other bundle; "" takes what is there.
    """
    bundle = VerifiedBundle(folder, expected_sha256)
    info = bundle.info
    return MeasuredModel(
        bundle.classifier, info.architecture.name, bundle.sha256, info.weights_bytes, _snapshots(folder), read_choice(folder)
    )


def choose_images(student: Classifier, data_uri: str, set_path: Path, teacher_sha256: str) -> tuple[EvaluationImages, str]:
    """The test set where there is one, else held-out images, else images the student was trained on; named as what they are.

    Args:
        student: what the images must fit, and whose classes their labels are.
        data_uri: labelled images, or "".
        set_path: folder with the reference to the synthetic set, or to real images.
        teacher_sha256: the teacher that the set must be of.

    Returns:
        The images, and the sha256 of the data or of the set's manifest.
    """
    if data_uri:
        return _test_images(student, data_uri)
    if is_of_images(set_path):
        return _some_given_images(student, set_path)
    synthetic = open_reference(set_path, teacher_sha256)
    if synthetic.manifest.holdout:
        return EvaluationImages(synthetic.load("holdout").images, None, "held-out synthetic"), synthetic.digest
    return EvaluationImages(_some_training_images(synthetic), None, "training synthetic"), synthetic.digest


def log_confusion(report_path: Path, log: Callable[[list[str], list[list[int]]], object]) -> None:
    """Hand the student's confusion matrix to a platform's own display, where there is one that somebody could read there.

    Args:
        report_path: of the report, which keeps it whole.
        log: takes class names and counts (row = label, column = argmax).
    """
    report = load_report(report_path)
    cells = report.student.accuracy.confusion
    if cells and len(report.class_names) <= MAX_SHOWN_CLASSES:
        log(list(report.class_names), whole_matrix(cells, len(report.class_names)))


def _snapshots(folder: Path) -> dict[str, Callable[[], Classifier]]:
    """The states that a training kept beside the last one, each a bundle of its own, read when it is measured."""
    found = [path.parent for path in (*sorted(folder.glob("epochs/*/" + DOCUMENT)), *folder.glob("best/" + DOCUMENT))]
    return {path.relative_to(folder).as_posix(): partial(_frozen, path) for path in found}


def _frozen(folder: Path) -> Classifier:
    return load_classifier(folder).freeze()


def _first_of(bench: Workbench, key: str, path: Path) -> EvaluationReport:
    """The report that stands: of two workers at one evaluation the first one's, for times differ, and a registered student names it.

    Args:
        bench: the open step.
        key: where the run keeps its report in the store.
        path: the report just written; holds the one that stands when this returns.
    """
    data = path.read_bytes()
    if not bench.store.create(key, data):
        there = bench.store.read(key)
        if _is_of(bench, there):
            path.write_bytes(there)
        else:  # of other settings or other code, before the run was resumed
            bench.store.write(key, data)
    return load_report(path)


def _is_of(bench: Workbench, data: bytes) -> bool:
    """Whether a report was made under the step's own key; a damaged one was not."""
    try:
        return key_of(STEP, FORMAT.read(data, "The report").provenance) == bench.key
    except DistilleryError:
        return False


def _write_page(bench: Workbench, page: str, path: Path) -> None:
    open_store(str(path.parent)).write(path.name, page.encode())
    bench.tracker.text("report.html", page)


def _place_of(set_path: Path) -> str:
    uri = read_reference(set_path).uri
    return uri if is_of_images(set_path) else join_uri(uri, MANIFEST)


def _place(runtime: Runtime, *models: MeasuredModel) -> None:
    for model in models:
        runtime.place(model.classifier)


def _test_images(student: Classifier, uri: str) -> tuple[EvaluationImages, str]:
    labelled = load_labelled(uri, student.class_names, student.spec)
    labelled.check(student.spec, student.num_classes)
    return EvaluationImages(labelled.images, labelled.labels, "test set"), labelled.digest()


def _some_given_images(student: Classifier, set_path: Path) -> tuple[EvaluationImages, str]:
    """Those held out, else some of all of them, for they lie sorted by class; without labels, since only a test set measures accuracy."""
    reference = read_reference(set_path)
    facts = read_facts(set_path)
    given = load_given(reference.uri, student.spec, student.class_names, facts.labels)
    GivenSource(real=given).check_pinned(reference.sha256)
    if facts.holdout:
        return EvaluationImages(given.images[withhold(len(given.images), facts.holdout)[1]], None, "held-out images"), reference.sha256
    chosen = torch.randperm(len(given.images), generator=stream(0, "evaluation"))[:MAX_TRAINING_IMAGES]
    return EvaluationImages(given.images[chosen], None, "training images"), reference.sha256


def _some_training_images(synthetic: SyntheticSet) -> Tensor:
    """Of the whole set: what was drawn first is of the classes that came easily, or of an online run's first rounds."""
    entries = synthetic.entries("train")
    if not entries:
        raise ConfigError(f"The set {synthetic.store.uri!r} holds no images to evaluate on: give eval_data_uri, or materialize a set.")
    return sample_shards(synthetic.store, entries, MAX_TRAINING_IMAGES, stream(0, "evaluation")).images


def _observe(bench: Workbench, report: EvaluationReport, uri: str, digest: str) -> None:
    metrics = flat_metrics(report)
    shown = io.StringIO()
    Console(file=shown, width=100, color_system=None).print(table(report))
    bench.tracker.metrics(metrics)
    bench.tracker.tags({"evaluated_on": report.source})
    bench.tracker.json("evaluation.json", report.to_json())
    bench.tracker.text("evaluation.txt", shown.getvalue())
    bench.tracker.dataset(report.source, uri, digest, "evaluation")
    headline = ("student/top1", "teacher/top1", "agreement", "kl")
    bench.progress.write(f"evaluated on {report.source}", report.images, report.images, {k: metrics[k] for k in headline if k in metrics})
