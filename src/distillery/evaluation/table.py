"""The report on a student as a table for the terminal."""

from rich.table import Table

from distillery.evaluation.agreement import Agreement
from distillery.evaluation.report import EvaluationReport, ModelReport
from distillery.grammar import counted

_SOURCES: dict[str, str] = {
    "test set": "test set",
    "held-out synthetic": "held-out synthetic (no test set: agreement only)",
    "held-out images": "given, held out of the student's training (no test set: agreement only)",
    "training images": "given, the student trained on them (no test set, nothing held out: agreement only)",
    "training synthetic": "synthetic, the student trained on them (no test set, nothing held out: agreement only)",
}
NOT_COMPARED = "not compared: its classes are others than the teacher's"


def table(report: EvaluationReport) -> Table:
    """The report as a table for the terminal: one row a number, the teacher beside the student."""
    models = (report.teacher, report.student)
    shown = Table(title=f"{counted(report.images, 'image')}: {_SOURCES[report.source]}")
    for heading in ("", f"teacher {report.teacher.name}".strip(), f"student {report.student.name}".strip()):
        shown.add_column(heading, justify="right" if heading else "left")
    if report.labelled:
        shown.add_row("top-1", *map(_top1, models))
        for member in report.members:
            shown.add_row(f"  {member.name} {member.sha256[:12]} alone", "", _top1(member))
        if len(report.class_names) > 5:
            shown.add_row("top-5", *(f"{m.accuracy.top5:.2%}" if m.accuracy.total else "" for m in models))
        shown.add_row("calibration error", *(f"{m.calibration.ece:.4f}" if m.accuracy.total else "" for m in models))
    if report.compared:
        shown.add_row("agrees with the teacher", "", _agrees(report.agreement))
        for member in report.members:
            shown.add_row(f"  {member.name} {member.sha256[:12]} alone", "", _agrees(member.agreement))
    else:
        shown.add_row("agrees with the teacher", "", NOT_COMPARED)
    for score in report.best:
        top1 = f", top-1 {score.correct / score.total:.2%} ({score.correct}/{score.total})" if score.total else ""
        number, on = (f", {score.epoch:,}," if score.epoch else ""), (f"{score.chosen_on:,} " if score.chosen_on else "")
        shown.add_row(f"best epoch{number} by {on}held-out images", "", f"agrees {score.agreement:.2%}{top1}")
    if report.compared:
        shown.add_row("KL(teacher || student)", "", f"{report.agreement.kl:.4f}")
    shown.add_row("parameters", *(f"{m.cost.parameters:,}" for m in models))
    shown.add_row("MFLOPs an image", *(f"{m.cost.flops / 1e6:,.1f}" for m in models))
    shown.add_row("file size", *(f"{m.cost.weights_bytes / 1024:,.0f} KiB" for m in models))
    for first, second in zip(*(m.cost.latency for m in models), strict=False):
        label = f"CPU latency, batch {first.batch}, {counted(first.threads, 'thread')}"
        shown.add_row(label, f"{first.milliseconds:,.2f} ms", f"{second.milliseconds:,.2f} ms")
    return shown


def _top1(model: ModelReport) -> str:
    scores = model.accuracy
    return f"{scores.top1:.2%} ({scores.correct}/{scores.total})" if scores.total else ""


def _agrees(agreement: Agreement) -> str:
    return f"{agreement.rate:.2%} ({agreement.agreed}/{agreement.total})"
