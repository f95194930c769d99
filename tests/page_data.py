"""A page's data made up for tests."""

import math
from typing import Any

import torch

from distillery.evaluation.accuracy import Accuracy
from distillery.evaluation.agreement import Agreement
from distillery.evaluation.calibration import Calibration
from distillery.evaluation.cost import Cost, Latency
from distillery.evaluation.features import Features
from distillery.evaluation.health import HealthConfig, measure_health
from distillery.evaluation.report import EvaluationReport, ModelReport, SnapshotScore
from distillery.reporting.page import LineageEntry, PageData, RunRecord, SetFacts
from distillery.reporting.pictures import ClassPicture
from distillery.tracking.history import Entry, History


def made_up_report(names: tuple[str, ...], images: int = 60, labelled: bool = True) -> EvaluationReport:
    """A report measured on random logits in which both models are mostly right."""
    draws = torch.Generator().manual_seed(3)
    labels = torch.arange(images) % len(names)
    right = 4.0 * torch.nn.functional.one_hot(labels, len(names))
    logits = [right + sigma * torch.randn(images, len(names), generator=draws) for sigma in (0.9, 1.6)]
    models = []
    for name, answer, scale in zip(("wrn_16_2", "resnet8"), logits, (9, 1), strict=True):
        cost = Cost(
            parameters=77_754 * scale,
            flops=6_100_000 * scale,
            weights_bytes=319_000 * scale,
            latency=(Latency(batch=1, milliseconds=0.75 * scale, repeats=20, threads=2),),
        )
        scores: dict[str, Any] = {}
        if labelled:
            scores = {"accuracy": Accuracy.measure(answer, labels, names), "calibration": Calibration.measure(answer, labels)}
        models.append(ModelReport(name=name, sha256=str(scale) * 64, cost=cost, **scores))
    return EvaluationReport(
        source="test set" if labelled else "held-out synthetic",
        images=images,
        labelled=labelled,
        class_names=names,
        teacher=models[0],
        student=models[1],
        agreement=Agreement.measure(*logits),
        snapshots=tuple(
            SnapshotScore(name=f"epochs/{epoch:06d}", agreement=0.5 + epoch / 100, correct=30 + epoch, total=60) for epoch in (5, 10)
        )
        if labelled
        else (),
    )


def made_up_history(rounds: int = 40) -> History:
    """A history as an online run leaves it."""
    entries = []
    for number in range(1, rounds + 1):
        numbers = {
            "synthesis/moments": 500 / number,
            "synthesis/label": 10 + math.sin(number),
            "synthesis/pool": 128.0 * number,
            "student/kd": 3 / number,
            "student/rate": 0.1,
            "holdout/agreement": 1 - 0.6 / number,
        }
        if number & (number - 1) == 0:
            numbers |= {"gradient/moments": 60 / number, "gradient/label": 0.001}
        entries.append(Entry(numbers=numbers, seconds={"synthesis": 2.0, "student": 1.0, "io": 0.25, "other": 0.05}))
    return History(rounds=tuple(entries), after={"io": 1.5})


def made_up_page(names: tuple[str, ...] = ("cat", "dog", "owl"), **changes: Any) -> PageData:
    """A whole page."""
    counts = tuple(20 + index for index in range(len(names)))
    logits = torch.randn(60, len(names), generator=torch.Generator().manual_seed(1))
    health = measure_health(counts, logits, Features(logits, "head"), HealthConfig())
    parameters = {
        "run_recipe": "fast_dfkd/digits",
        "teacher_uri": "teacher",
        "eval_data_uri": "test.npz",
        "run_seed": 7,
        "run_overrides": {},
    }
    fields: dict[str, Any] = {
        "report": made_up_report(names),
        "recipe": "fast_dfkd/digits",
        "method": "FastDFKD",
        "run": RunRecord(id="run-1", pipeline="online_distillation", planned="2026-01-02T03:04:05+00:00", parameters=parameters),
        "set": SetFacts(images=sum(counts), holdout=3, counts=counts, asked=sum(counts), agreed=sum(counts) // 2),
        "samples": tuple(ClassPicture(name=name, images=1, in_set=20, png=PIXEL, width=1, height=1) for name in names),
        "histories": {"distill_online": made_up_history()},
        "health": health,
        "lineage": (LineageEntry(name="Teacher", sha256="9" * 64, what="wrn_16_2"), LineageEntry(name="Student", sha256="1" * 64)),
        "code_version": "c" * 64,
        "hardware": ("cpu", "float32"),
        "epochs": 12,
        "config": {"synthesis": {"rounds": 40}},
    }
    return PageData(**{**fields, **changes})


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
