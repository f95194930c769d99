"""A student, or several as one, beside their teacher on labelled images."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from distillery.api.arguments import Place, as_mapping, check_hardware, located
from distillery.api.process import visiting
from distillery.api.progress import silent
from distillery.api.teachers import bundle_at
from distillery.data.real import load_labelled
from distillery.errors import ConfigError
from distillery.evaluation.ensemble import as_one
from distillery.evaluation.report import EvaluationConfig, EvaluationImages, EvaluationReport, MeasuredModel
from distillery.evaluation.report import evaluate as measure
from distillery.host import ProgressEvent, Watcher
from distillery.runtime import resolve_runtime
from distillery.steps.evaluate import open_model
from distillery.types import Classifier


def evaluate(
    student: Place | Classifier | Sequence[Place | Classifier],
    teacher: Place | Classifier,
    data: Place,
    *,
    options: Mapping[str, Any] | EvaluationConfig | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: Watcher = silent,
) -> EvaluationReport:
    """Score a student beside its teacher: accuracy, calibration, agreement, size, speed.

    A student of other classes than the teacher's is scored on labelled images of its own, and its agreement is left out.

    Args:
        student: folder or URI of its bundle, or a classifier in memory, which is copied and left as it is; or a list of them, of the same
            classes, which are scored as one that answers with the mean of their softmax, and each by itself as `report.members`.
        teacher: what to compare with, likewise.
        data: labelled images: npz, npy, idx or CIFAR files, or a folder a class.
        options: what is measured, as `evaluation:` of a recipe: `{"latency": False}`.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads, for the latencies too; 0 is torch's choice.
        progress: told how many images were shown, such as `TextProgress()`.

    Returns:
        The report; `report.student.accuracy.top1`, `report.agreement.rate` and more.

    Raises:
        DistilleryError: whatever does not fit, in one sentence.
    """
    if not (uri := located(data, "data")):
        raise ConfigError("No labelled images are given to evaluate on: give an npz file, a folder of idx files, or a folder a class.")
    config = options if isinstance(options, EvaluationConfig) else EvaluationConfig.parse(as_mapping(options, "options"), "options")
    check_hardware(device, threads)
    with visiting(progress), ExitStack() as opened:
        judge, judged = _opened(teacher, "teacher", opened), _together(student, opened)
        first = judged.classifier
        labelled = load_labelled(uri, first.class_names, first.spec)
        labelled.check(first.spec, first.num_classes)
        runtime = resolve_runtime(device, "float32", threads)
        for model in (judge, judged):
            runtime.place(model.classifier)
        images = EvaluationImages(labelled.images, labelled.labels, "test set")
        return measure(judge, judged, images, config, _telling(progress))


def _together(students: Place | Classifier | Sequence[Place | Classifier], opened: ExitStack) -> MeasuredModel:
    """One student, or several as one."""
    if isinstance(students, str | os.PathLike | Classifier):
        return _opened(students, "student", opened)
    members = tuple(_opened(student, "student", opened) for student in students)
    if len(members) < 2:
        raise ConfigError(f"student is a list of {len(members)}: give one student, or a list of two or more to average.")
    return MeasuredModel(
        as_one([member.classifier for member in members]),
        f"mean of {len(members)}",
        weights_bytes=sum(member.weights_bytes for member in members),
        members=members,
    )


def _opened(model: Place | Classifier, what: str, opened: ExitStack) -> MeasuredModel:
    if isinstance(model, Classifier):
        return MeasuredModel(copy.deepcopy(model).freeze(), type(model.network).__name__)
    return open_model(opened.enter_context(bundle_at(model, what=what)))


def _telling(watch: Watcher) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: watch(ProgressEvent("evaluate", stage, done, total))
