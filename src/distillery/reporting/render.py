"""Draw a page from its data."""

import math
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from distillery.evaluation.accuracy import ClassAccuracy, whole_matrix
from distillery.evaluation.report import EvaluationReport, SnapshotScore
from distillery.grammar import counted
from distillery.plain_yaml import write_yaml
from distillery.reporting import words
from distillery.reporting.charts import Scale, Series, column_chart, key, line_chart, reliability_chart, share_bar
from distillery.reporting.page import PageData
from distillery.reporting.pictures import heat_map
from distillery.reporting.stages import stage_rows
from distillery.statistics.counts import STABLE_IMAGES, few, tell_counts
from distillery.step_table import STEPS
from distillery.tracking.history import WORST, History

LARGEST = 3_000_000
"""Bytes that no page exceeds: browsers, and the frame in which a cluster shows it, stay quick below."""
MAX_CELLS = 20
"""Classes up to which a confusion matrix is a table of numbers; above, it is a picture and the commonest mistakes in words."""
MAX_PIXELS = 256
"""Classes up to which the picture is shown: of more, nobody could read it."""
_CLASSES_LISTED = 40
_CONFIG_CHARACTERS = 100_000


def render(data: PageData) -> str:
    """The page: one HTML document with everything inside, no script, and nothing fetched from anywhere.

    Args:
        data: what it shows.
    """
    files = resources.files(__package__ or "distillery.reporting")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals.update({name: getattr(words, name) for name in _WORDS}, key=key)
    template = environment.from_string(files.joinpath("page.html.j2").read_text(encoding="utf-8"))
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    page = template.render(
        data=data,
        report=data.report,
        style=Markup(style),
        rows=comparison(data.report),
        curves=learning_curves(data),
        terms=term_charts(data, "synthesis/"),
        stages=stage_rows(data),
        student_terms=student_charts(data),
        gradients=gradient_chart(data),
        costs=cost(data),
        confusion=confusion(data.report),
        reliability=reliability(data.report),
        classes=by_class(data.report),
        spread=spread(data),
        behind_statistics=behind_statistics(data),
        config=write_yaml(data.config, width=100)[:_CONFIG_CHARACTERS] if data.config else "",
    )
    assert len(page.encode()) < LARGEST, "a page outgrew its bound"
    return page


_WORDS = (
    "axis_number",
    "behind",
    "best_state",
    "between",
    "count",
    "duration",
    "headline",
    "images",
    "milliseconds",
    "operations",
    "percent",
    "size",
    "sized",
    "compared",
    "PARTS",
    "SOURCES",
    "HARDWARE",
    "TERMS",
)


def comparison(report: EvaluationReport) -> list[dict[str, Any]]:
    """Rows of the table that sets the teacher beside the student."""
    models = (report.teacher, report.student)
    rows: list[dict[str, Any]] = []

    def row(name: tuple[str, str], path: str, values: list[float], texts: list[str], how: str = "") -> None:
        rows.append({"name": name[0], "plain": name[1], "path": path, "values": values, "texts": texts, "how": how})

    def scored(name: tuple[str, str], path: str, values: list[float], texts: list[str]) -> None:
        """Of both, or, where the teacher has other classes, of the student alone."""
        row(name, path if report.compared else "", values if report.compared else [], texts if report.compared else ["", *texts])

    judged = models if report.compared else (report.student,)
    if report.labelled:
        scores = [model.accuracy for model in judged]
        tops = [score.top1 for score in scores]
        scored(("Top-1 accuracy", "images named right"), "accuracy.top1", tops, [words.percent(top, 2) for top in tops])
        texts = [f"{words.count(s.correct)} of {words.count(s.total)}" for s in scores]
        scored(("Correct", "that is"), "accuracy.correct", [float(s.correct) for s in scores], texts)
        between = [words.between(s.correct, s.total) for s in scores]
        row(("95 % interval (Wilson)", "where the true rate lies"), "", [], between if report.compared else ["", *between])
        if len(report.class_names) > 5:
            tops = [score.top5 for score in scores]
            scored(("Top-5 accuracy", "right within five guesses"), "accuracy.top5", tops, [words.percent(top, 2) for top in tops])
        errors = [model.calibration.ece for model in judged]
        named = ("Expected calibration error (ECE)", "confidence off by")
        scored(named, "calibration.ece", errors, [words.percent(error) for error in errors])
    if report.compared:
        row(("Agreement", "same answer as the teacher"), "", [], ["", words.percent(report.agreement.rate, 2)])
        row(("KL divergence", "how far its answers are from the teacher's, in nats"), "", [], ["", f"{report.agreement.kl:.4f}"])
    costs = [model.cost for model in models]
    for name, plain, path, text in (
        ("Parameters", "learned numbers", "parameters", words.count),
        ("File size", "of the weights", "weights_bytes", words.size),
        ("FLOPs", "arithmetic for an image", "flops", words.operations),
    ):
        values = [float(getattr(cost, path)) for cost in costs]
        row((name, plain), f"cost.{path}", values, [text(value) for value in values], words.compared(values[0], values[1]).text)
    for index, pair in enumerate(zip(*(cost.latency for cost in costs), strict=False)):  # a report of one alone has no pairs
        times = [latency.milliseconds for latency in pair]
        name = f"CPU latency, batch {pair[0].batch}, {counted(pair[0].threads, 'thread')}"
        plain = f"time for {words.images(pair[0].batch)}"
        texts = [words.milliseconds(time) for time in times]
        how = words.compared(times[0], times[1], "faster", "slower", "as fast").text
        row((name, plain), f"cost.latency.{index}.milliseconds", times, texts, how)
    return rows


def learning_curves(data: PageData) -> list[dict[str, Any]]:
    """Agreement on held-out images over the training, and the accuracy of the kept states over epochs."""
    charts = []
    for step, history in data.histories.items():
        points = history.curve("holdout/agreement")
        if points:
            first, last = words.percent(points[0][1]), words.percent(points[-1][1])
            unit = STEPS[step].unit
            alt = f"Agreement with the teacher on held-out images: from {first} to {last} in {unit} {points[-1][0]:.0f}."
            series = [Series("agreement", points)]
            chart = line_chart(series, alt, unit, words.axis_percent, _share_scale(series))
            # points of an online run are on ever more images, so the highest of them is not the best student
            grown = " They grew with the rounds, so two rounds are not measured on the same ones." if STEPS[step].grows_its_set else ""
            note = f"{last} at the end, on synthetic images that were held back; they are often harder than real ones.{grown}"
            charts.append({"title": "Agreement with the teacher on held-out images", "chart": chart, "note": note, "key": []})
    snapshots = [score for score in data.report.snapshots if _epoch(score)]
    if snapshots:
        charts.append(_snapshot_chart(data.report, snapshots, data.epochs))
    return charts


def student_charts(data: PageData) -> list[dict[str, Any]]:
    """The student's loss terms, by stage where its epochs are told apart and it had several; each with a heading."""
    rows, told = stage_rows(data), "Loss terms of the student: what it was told to care about"
    in_epochs = any(STEPS[step].unit == "epoch" for step in data.histories)
    spans = [(row["first"], row["last"]) for row in rows] if in_epochs and len(rows) > 1 else [(0, math.inf)]
    groups = []
    for number, span in enumerate(spans, 1):
        if charts := term_charts(data, "student/", span):
            several = f"Stage {number}, {rows[number - 1]['names']}: its loss terms" if len(spans) > 1 else told
            groups.append({"heading": several, "charts": charts})
    return groups


def term_charts(data: PageData, prefix: str, span: tuple[float, float] = (0, math.inf)) -> list[dict[str, Any]]:
    """One small chart for each loss term over the rounds, of which only those of a span, its ends included."""
    charts = []
    for step, history in data.histories.items():
        for name in sorted(history.names(prefix), key=lambda name: _place(name.removeprefix(prefix))):
            term = name.removeprefix(prefix)
            points = [point for point in history.curve(name) if span[0] <= point[0] <= span[1]]
            if term not in words.TERMS and term in _NO_TERMS or len(points) < 2:
                continue
            unit = STEPS[step].unit
            ends = f"{words.axis_number(points[0][1])} at first, {words.axis_number(points[-1][1])} at the end"
            worst = history.curve(f"{WORST}{name}")
            shards = [Series("mean of the shards", points), Series("worst shard", worst)] if worst else []
            chart = line_chart(shards or [Series(term, points)], f"The term {term} over the training: {ends}.", unit)
            title, note = words.TITLES.get(term, term.replace("_", " ")), words.TERMS.get(term, "")
            legend = [line.name for line in shards]
            charts.append({"title": title, "term": term, "chart": chart, "note": note, "ends": ends, "key": legend})
    return charts


def gradient_chart(data: PageData) -> dict[str, Any]:
    """Norms of the terms' gradients on the images, all in one chart on a logarithmic axis; empty where none were kept."""
    for history in data.histories.values():
        names = sorted(history.names("gradient/"), key=lambda name: _place(name.removeprefix("gradient/")))
        series = [Series(name.removeprefix("gradient/"), _positive(history, name)) for name in names]
        shown = [line for line in series if line.points]
        if shown:
            values = [y for line in shown for _, y in line.points]
            last = ", ".join(f"{line.name} {words.axis_number(line.points[-1][1])}" for line in shown)
            chart = line_chart(
                shown, f"Gradient norm of each term over the rounds; last: {last}.", "round", scale=Scale.covering(values, log=True)
            )
            legend = [words.TITLES.get(line.name, line.name.replace("_", " ")) for line in shown]
            strongest = max(line.points[-1][1] for line in shown)
            weak = [name for name, line in zip(legend, shown, strict=True) if line.points[-1][1] < _WEAK * strongest]
            return {"chart": chart, "key": legend, "weak": weak}
    return {}


def cost(data: PageData) -> dict[str, Any]:
    """Seconds by part over all steps: a bar and the rows of a table; empty where no history was found."""
    steps = data.seconds()
    total = sum(sum(parts.values()) for parts in steps.values())
    if not total:
        return {}
    parts = {name: sum(step.get(name, 0.0) for step in steps.values()) for name in words.PARTS}
    alt = ", ".join(f"{words.PARTS[name]} {words.percent(seconds / total, 0)}" for name, seconds in parts.items())
    rows = [{"name": STEPS[step].heading, "seconds": seconds, "total": sum(seconds.values())} for step, seconds in steps.items()]
    return {"bar": share_bar(list(parts.items()), alt), "parts": parts, "rows": rows, "total": total}


def confusion(report: EvaluationReport) -> dict[str, Any]:
    """The student's confusion matrix as cells or as a picture, and its commonest mistakes; empty without labels."""
    cells = report.student.accuracy.confusion
    if not cells:
        return {}
    names = report.class_names
    mistakes = words.confused(names, cells)
    if len(names) > MAX_CELLS:
        return {"png": heat_map(cells, len(names)) if len(names) <= MAX_PIXELS else "", "mistakes": mistakes, "rows": []}
    matrix = whole_matrix(cells, len(names))
    rows = [
        {
            "name": name,
            "cells": [
                {"count": times, "shade": _shade(times / max(sum(counts), 1), i == j), "hit": i == j} for j, times in enumerate(counts)
            ],
        }
        for i, (name, counts) in enumerate(zip(names, matrix, strict=True))
    ]
    return {"png": "", "mistakes": mistakes, "rows": rows}


def reliability(report: EvaluationReport) -> Markup:
    """The reliability diagram of both; empty without labels, and beside a teacher of other classes."""
    if not (report.student.calibration.bins and report.teacher.calibration.bins):
        return Markup("")
    errors = [words.percent(model.calibration.ece) for model in (report.teacher, report.student)]
    alt = (
        f"Share of right answers over confidence. The teacher's confidence is off by {errors[0]} on average, the student's by {errors[1]}."
    )
    return reliability_chart(report.teacher.calibration.bins, report.student.calibration.bins, alt)


def by_class(report: EvaluationReport) -> dict[str, Any]:
    """Accuracy of both by class; where there are many classes, of those that the student finds hardest."""
    students = report.student.accuracy.per_class
    teachers = report.teacher.accuracy.per_class or tuple(ClassAccuracy(name=one.name, correct=0, total=0) for one in students)
    pairs = list(zip(teachers, students, strict=True))
    if len(pairs) > _CLASSES_LISTED:
        hardest = sorted((pair for pair in pairs if pair[1].total), key=lambda pair: pair[1].rate)[:_CLASSES_LISTED]
        return {"pairs": hardest, "hardest": True}
    return {"pairs": pairs, "hardest": False}


def spread(data: PageData) -> Markup:
    """Training images of each class beside an even share; empty without a set."""
    counts = data.set.counts
    if not counts:
        return Markup("")
    names = data.report.class_names
    even = sum(counts) / len(counts)
    rare = min(range(len(counts)), key=counts.__getitem__)
    often = max(range(len(counts)), key=counts.__getitem__)
    ends = f"from {words.count(counts[rare])} ({names[rare]}) to {words.count(counts[often])} ({names[often]})"
    alt = f"Images by class: {ends}; even would be {words.count(even)}."
    return column_chart(counts, names, even, alt)


def behind_statistics(data: PageData) -> dict[str, Any]:
    """On how many images the statistics of each class were measured, as a chart and in words; empty where the run was given none."""
    if data.statistics is None or not data.statistics.counts:
        return {}
    counts, names = data.statistics.counts, data.report.class_names
    told, rare = tell_counts(counts, names), few(counts, names)
    alt = f"Images behind the statistics of each class: {told}; stable are those on {STABLE_IMAGES} or more."
    return {"told": told, "few": rare, "stable": STABLE_IMAGES, "chart": column_chart(counts, names, STABLE_IMAGES, alt)}


_WEAK = 0.01
"""Share of the strongest gradient below which a term hardly moves the images."""
_NO_TERMS = ("pool", "asked_agreement", "rate")
"""Numbers of a round that are no loss terms."""


def _snapshot_chart(report: EvaluationReport, snapshots: list[SnapshotScore], last_epoch: int) -> dict[str, Any]:
    agreement = [(float(_epoch(score)), score.agreement) for score in snapshots]
    series = [Series("agreement with the teacher", agreement)] if report.compared else []
    if report.labelled:
        series.insert(0, Series("top-1 accuracy", [(float(_epoch(score)), score.correct / max(score.total, 1)) for score in snapshots]))
    if last_epoch > _epoch(snapshots[-1]):
        ends = [report.student.accuracy.top1] * report.labelled + [report.agreement.rate] * report.compared
        series = [line._replace(points=[*line.points, (float(last_epoch), end)]) for line, end in zip(series, ends, strict=True)]
    alt = "; ".join(f"{line.name}: from {words.percent(line.points[0][1])} to {words.percent(line.points[-1][1])}" for line in series) + "."
    note = "Kept states of the student, measured afterwards; none was chosen by these numbers."
    title = "Top-1 accuracy over epochs" if report.labelled else "Agreement over epochs, measured afterwards"
    return {
        "title": title,
        "chart": line_chart(series, alt, "epoch", words.axis_percent, _share_scale(series)),
        "note": note,
        "key": [line.name for line in series],
    }


def _epoch(score: SnapshotScore) -> int:
    number = score.name.rpartition("/")[2]
    return int(number) if number.isdecimal() else 0


def _shade(share: float, hit: bool) -> float:
    """How dark a cell is: mistakes are rare, so that theirs grows with the root."""
    return share if hit else share**0.5


def _place(term: str) -> int:
    """Known terms in the order in which the words tell of them, strangers last."""
    known = list(words.TERMS)
    return known.index(term) if term in known else len(known)


def _positive(history: History, name: str) -> list[tuple[float, float]]:
    return [(number, value) for number, value in history.curve(name) if value > 0]


def _share_scale(series: list[Series]) -> Scale:
    """Of shares: covers them, and never goes beyond nothing and everything."""
    scale = Scale.covering([y for line in series for _, y in line.points])
    low, high = max(scale.low, 0.0), min(scale.high, 1.0)
    return Scale(low, high) if low < high else Scale(0.0, 1.0)
