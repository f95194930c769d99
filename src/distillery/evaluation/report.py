"""The report on a student beside its teacher: measured, kept as `distillery-evaluation`, told as flat numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from distillery.config import Config
from distillery.documents import Document, Format
from distillery.errors import ConfigError, MissingResourceError
from distillery.evaluation.accuracy import Accuracy, cells_of
from distillery.evaluation.agreement import Agreement
from distillery.evaluation.calibration import Calibration
from distillery.evaluation.cost import Cost, LatencyConfig
from distillery.evaluation.ensemble import mean_answer
from distillery.evaluation.predict import predict
from distillery.grammar import counted
from distillery.provenance import Provenance
from distillery.storage import open_store
from distillery.types import Classifier

FORMAT = Format("distillery-evaluation", 4, "evaluate the student again")
_CELLS_SINCE = 3
Source = Literal["test set", "held-out synthetic", "training synthetic", "held-out images", "training images"]

MAX_TRAINING_IMAGES = 10_000
"""Held-out or, where there are none, training images of a set on which agreement is measured; more say nothing new."""


class EvaluationConfig(Config):
    """What is measured.

    Attributes:
        batch: images a forward pass; changes the numbers by rounding only.
        latency: whether the CPU latency is measured.
        timing: how it is measured.
        calibration_bins: equal-width bins of the calibration error.
    """

    batch: int = Field(default=256, ge=1)
    latency: bool = True
    timing: LatencyConfig = LatencyConfig()
    calibration_bins: int = Field(default=15, ge=1, le=1000)


class Chosen(NamedTuple):
    """How a training chose its best epoch, as far as it is known.

    Attributes:
        epoch: after which the student stood there; 0 where it is not known.
        images: held-out synthetic images that all epochs in question were compared on; 0 where it is not known.
    """

    epoch: int = 0
    images: int = 0


@dataclass(frozen=True)
class MeasuredModel:
    """A model to measure.

    Attributes:
        classifier: on any device.
        name: its architecture, for the reader.
        sha256: its bundle, empty where it has none.
        weights_bytes: size of its weights file, 0 where it has none.
        snapshots: other states of its weights that a training kept, each loaded when it is measured.
        chosen: how the training came to the one called `best`.
        members: of an ensemble, whose answer is the mean of theirs; () for one network.
    """

    classifier: Classifier
    name: str = ""
    sha256: str = ""
    weights_bytes: int = 0
    snapshots: Mapping[str, Callable[[], Classifier]] = field(default_factory=dict)
    chosen: Chosen = Chosen()
    members: "tuple[MeasuredModel, ...]" = ()


@dataclass(frozen=True)
class EvaluationImages:
    """What the models are measured on.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 truth, or None where there is none: then only the agreement is measured.
        source: where the images come from; the report says it wherever it is shown.
    """

    images: Tensor
    labels: Tensor | None
    source: Source


class ModelReport(Config):
    """One model.

    Attributes:
        name: its architecture.
        sha256: its bundle, empty where it has none.
        accuracy: against the labels; all zero without them.
        calibration: against the labels; without bins where there are none.
        cost: what it takes to keep and run it.
    """

    name: str = ""
    sha256: str = ""
    accuracy: Accuracy = Accuracy()
    calibration: Calibration = Calibration()
    cost: Cost


class MemberReport(ModelReport):
    """One student of an ensemble, by itself.

    Attributes:
        agreement: with the teacher.
    """

    agreement: Agreement = Agreement()


BEST = "best"
"""Name of the snapshot of the best epoch."""


class SnapshotScore(Config):
    """A state of the student that its training kept beside the last one.

    Attributes:
        name: `best` on held-out synthetic images, or `epochs/NNNNNN`.
        agreement: with the teacher; 0 where its classes are others.
        correct: images named right; 0 without labels.
        total: labelled images.
        epoch: of `best`, after which the student stood there; 0 where it is not known.
        chosen_on: of `best`, held-out synthetic images that the epochs were compared on; 0 where it is not known.
    """

    name: str
    agreement: float
    correct: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)
    epoch: int = Field(default=0, ge=0)
    chosen_on: int = Field(default=0, ge=0)


class EvaluationReport(Config):
    """A student beside its teacher on the same images.

    Attributes:
        source: test set, or synthetic images: held-out ones that no student trained on, or, for a set without a held-out part, the
            training images themselves; or real images that it was trained on. Agreement is no accuracy.
        images: N.
        labelled: whether accuracy and calibration were measured.
        class_names: the student's, in the order of its logits.
        teacher_classes: the teacher's, where they are others than the student's; then nothing compares their answers, and the labels, which
            are the student's, say nothing of the teacher. Empty where both have the same.
        teacher: its accuracy is left out where its classes are others.
        student: of an ensemble the mean of its members' answers.
        agreement: how closely the student follows the teacher; all zero where their classes are others.
        snapshots: the kept states of the student, scored afterwards: the accuracy over epochs, without a test set inside training.
        members: of an ensemble, each by itself; empty for one network.
    """

    source: Source
    images: int = Field(ge=1)
    labelled: bool
    class_names: tuple[str, ...]
    teacher_classes: tuple[str, ...] = ()
    teacher: ModelReport
    student: ModelReport
    agreement: Agreement = Agreement()
    snapshots: tuple[SnapshotScore, ...] = ()
    members: tuple[MemberReport, ...] = ()

    @property
    def compared(self) -> bool:
        """Whether teacher and student tell the same classes apart, so that their answers could be compared."""
        return not self.teacher_classes

    @property
    def best(self) -> tuple[SnapshotScore, ...]:
        """The student of the best epoch by held-out agreement, where its training kept one; the student itself is the last epoch's."""
        return tuple(score for score in self.snapshots if score.name == BEST)


def evaluate(
    teacher: MeasuredModel,
    student: MeasuredModel,
    data: EvaluationImages,
    config: EvaluationConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluationReport:
    """Measure a student beside its teacher, each image shown once to each; a teacher of other classes is shown none.

    Args:
        teacher: the model that was distilled.
        student: the model that came out.
        data: the images, with or without labels.
        config: what is measured; None is the default.
        progress: told the stage, the images done and all images after each batch.

    Returns:
        The report.

    Raises:
        ConfigError: no images, images of another size, labels out of range, a student of other classes without labels, or of another image
            size.
    """
    config = config or EvaluationConfig()
    tell = progress or (lambda stage, done, total: None)
    names, others = student.classifier.class_names, teacher.classifier.class_names != student.classifier.class_names
    _check_fit(teacher.classifier, student.classifier, data, others)
    _check_labels(data, len(names))
    answers = None if others else predict(teacher.classifier, data.images, config.batch, partial(tell, "teacher"))
    logits, members = _student_answers(student, answers, data, config, tell)
    return EvaluationReport(
        source=data.source,
        images=len(data.images),
        labelled=data.labels is not None,
        class_names=names,
        teacher_classes=teacher.classifier.class_names if others else (),
        teacher=_measure(teacher, answers, names, data.labels, config),
        student=_measure(student, logits, names, data.labels, config),
        agreement=_agreement(answers, logits),
        snapshots=_score_snapshots(student, answers, data, config.batch),
        members=members,
    )


def flat_metrics(report: EvaluationReport) -> dict[str, float]:
    """The report as numbers by stable name, for KFP metrics and the tracker.

    `images`, `agreement` and `kl` where both tell the same classes apart, and for `teacher/` and `student/` each: `parameters`, `flops`,
    `bytes`, `latency_ms_batch1` and so on where it was measured; `top1`, `top5` (from six classes on), `ece`, `correct` and `total` where
    there are labels of its classes. `best/agreement` and `best/top1` are of the best held-out epoch, where one was kept; `student/` is the
    last epoch.
    """
    flat = {"agreement": report.agreement.rate, "kl": report.agreement.kl} if report.compared else {}
    flat |= {"images": float(report.images)}
    for role, model in (("teacher", report.teacher), ("student", report.student)):
        values: dict[str, float] = {"parameters": model.cost.parameters, "flops": model.cost.flops, "bytes": model.cost.weights_bytes}
        values |= {f"latency_ms_batch{latency.batch}": latency.milliseconds for latency in model.cost.latency}
        if model.accuracy.total:
            scores = model.accuracy
            values |= {"top1": scores.top1, "ece": model.calibration.ece, "correct": scores.correct, "total": scores.total}
            values |= {"top5": scores.top5} if len(report.class_names) > 5 else {}
        flat |= {f"{role}/{name}": float(value) for name, value in values.items()}
    for score in report.best:
        flat |= {"best/agreement": score.agreement} | ({"best/top1": score.correct / score.total} if score.total else {})
    return flat


def save_report(path: Path, report: EvaluationReport, provenance: Provenance) -> None:
    """Write a report atomically as JSON with format, version and provenance."""
    open_store(str(path.parent)).write(path.name, FORMAT.write(provenance, report.to_json()))


def load_report(path: Path) -> EvaluationReport:
    """Read a report.

    Raises:
        MissingResourceError: no such file.
        StoreError: it is damaged.
        CheckpointMismatchError: another format or a newer version.
    """
    return _parse(_open(path))


def read_origin(path: Path) -> Provenance:
    """What a report was made from; raises as `load_report` does."""
    return _open(path).provenance


def _check_fit(teacher: Classifier, student: Classifier, data: EvaluationImages, others: bool) -> None:
    if student.spec.shape != teacher.spec.shape:
        raise ConfigError(
            f"The student expects images {student.spec.shape} but the teacher {teacher.spec.shape} (channels, height, width): give a "
            "student of this teacher."
        )
    if others and data.labels is None:
        raise ConfigError(
            f"The student tells {student.num_classes} classes apart which are others than the teacher's {teacher.num_classes}, so their "
            "answers cannot be compared: give labelled images of the student's classes."
        )


def _student_answers(
    student: MeasuredModel, answers: Tensor | None, data: EvaluationImages, config: EvaluationConfig, tell: Callable[[str, int, int], None]
) -> tuple[Tensor, tuple[MemberReport, ...]]:
    """The student's logits; of an ensemble the mean of its members, and each of these by itself, whose latencies are not measured."""
    if not student.members:
        return predict(student.classifier, data.images, config.batch, partial(tell, "student")), ()
    logits, reports, quick = [], [], config.model_copy(update={"latency": False})
    for number, member in enumerate(student.members, start=1):
        stage = f"student {number} of {len(student.members)}"
        logits.append(predict(member.classifier, data.images, config.batch, partial(tell, stage)))
        found = _measure(member, logits[-1], member.classifier.class_names, data.labels, quick)
        reports.append(MemberReport(**dict(found), agreement=_agreement(answers, logits[-1])))
    return mean_answer(logits), tuple(reports)


def _agreement(answers: Tensor | None, logits: Tensor) -> Agreement:
    return Agreement() if answers is None else Agreement.measure(answers, logits)


def _measure(
    model: MeasuredModel, logits: Tensor | None, names: tuple[str, ...], labels: Tensor | None, config: EvaluationConfig
) -> ModelReport:
    cost = Cost.measure(model.classifier, model.weights_bytes, config.timing if config.latency else None)
    if labels is None or logits is None:
        return ModelReport(name=model.name, sha256=model.sha256, cost=cost)
    return ModelReport(
        name=model.name,
        sha256=model.sha256,
        accuracy=Accuracy.measure(logits, labels.cpu(), names),
        calibration=Calibration.measure(logits, labels.cpu(), config.calibration_bins),
        cost=cost,
    )


def _score_snapshots(student: MeasuredModel, answers: Tensor | None, data: EvaluationImages, batch: int) -> tuple[SnapshotScore, ...]:
    scores = []
    for name, load in student.snapshots.items():
        logits = predict(load().to(student.classifier.mean.device), data.images, batch)
        agreement = _agreement(answers, logits).rate
        epoch, images = student.chosen if name == BEST else Chosen()
        score = SnapshotScore(name=name, agreement=agreement, epoch=epoch, chosen_on=images)
        if data.labels is not None:
            correct = int((logits.argmax(1) == data.labels.cpu()).sum())
            score = score.model_copy(update={"correct": correct, "total": len(logits)})
        scores.append(score)
    return tuple(scores)


def _open(path: Path) -> Document:
    if not path.is_file():
        raise MissingResourceError(f"There is no evaluation report at {path}: run the evaluate step first.")
    return FORMAT.read(path.read_bytes(), str(path))


def _parse(document: Document) -> EvaluationReport:
    if document.version < _CELLS_SINCE:
        document = replace(document, fields={name: _with_cells(value) for name, value in document.fields.items()})
    return document.parse(EvaluationReport)


def _with_cells(value: Any) -> Any:
    """One field of an older report, which holds confusion matrices as rows of all classes; damaged ones stay for the parser to refuse."""
    match value:
        case {"accuracy": {"confusion": [[*_], *_] as rows} as accuracy} if all(isinstance(row, list) for row in rows):
            return {**value, "accuracy": {**accuracy, "confusion": cells_of(rows)}}
    return value


def _check_labels(data: EvaluationImages, num_classes: int) -> None:
    if data.labels is None:
        return
    if len(data.labels) != len(data.images):
        raise ConfigError(
            f"{counted(len(data.images), 'image')} with {counted(len(data.labels), 'label')} cannot be measured: give one label an image."
        )
    if len(data.labels) and not 0 <= int(data.labels.min()) <= int(data.labels.max()) < num_classes:
        given = f"{int(data.labels.min())} to {int(data.labels.max())}"
        raise ConfigError(f"Labels go from {given}, but the student knows classes 0 to {num_classes - 1}: check the labels.")
