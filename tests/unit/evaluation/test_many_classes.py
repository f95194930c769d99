"""Ten thousand classes: what is kept and shown grows with the images and the classes, never with the square of the classes.

Nothing here looks at a clock: bytes of what is written, and how often something is looked at.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from distillery.data.class_names import check_class_names
from distillery.data.export import folder_names
from distillery.data.shards import Shard, add_up, count_shard
from distillery.engine.materialize import _ranks
from distillery.evaluation.accuracy import Accuracy, Cells, confusion_cells
from distillery.evaluation.calibration import Calibration
from distillery.evaluation.report import EvaluationReport, load_report, save_report
from distillery.models.bundle import BundleInfo
from distillery.models.catalog import Architecture
from distillery.provenance import Provenance
from distillery.reporting.card import CardSources, model_card
from distillery.reporting.charts import MOST_COLUMNS, column_chart
from distillery.reporting.grid import class_grid
from distillery.reporting.page import SetFacts
from distillery.reporting.render import render
from distillery.statistics.extract import RunningMoments
from distillery.types import ImageSpec
from page_data import made_up_page, made_up_report

K = 10_000
IMAGES = 40
NAMES = tuple(f"class {number}" for number in range(K))


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    """Of a few images and ten thousand classes."""
    small = made_up_report(("a", "b", "c"), IMAGES)
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.rand(IMAGES, K, generator=draws), torch.randint(K, (IMAGES,), generator=draws)
    labels[:9] = logits[:9].argmax(1)
    scores = {"accuracy": Accuracy.measure(logits, labels, NAMES), "calibration": Calibration.measure(logits, labels)}
    models = {role: getattr(small, role).model_copy(update=scores) for role in ("teacher", "student")}
    return small.model_copy(update={"class_names": NAMES, **models})


def cells_by_hand(predicted: list[int], labels: list[int]) -> Cells:
    pairs = sorted(zip(labels, predicted, strict=True))
    return tuple((*pair, pairs.count(pair)) for pair in dict.fromkeys(pairs))


def test_the_confusion_matrix_is_whole_and_no_larger_than_the_images(report: EvaluationReport) -> None:
    accuracy = report.student.accuracy
    assert 0 < len(accuracy.confusion) <= IMAGES
    assert sum(count for _, _, count in accuracy.confusion) == IMAGES
    assert sum(count for label, answer, count in accuracy.confusion if label == answer) == accuracy.correct == 9
    predicted, labels = torch.tensor([5, 5, K - 1, 0]), torch.tensor([5, 5, 0, K - 1])
    assert confusion_cells(predicted, labels) == cells_by_hand(predicted.tolist(), labels.tolist())


def test_a_report_is_linear_in_the_classes(report: EvaluationReport, tmp_path: Path) -> None:
    save_report(tmp_path / "evaluation.json", report, Provenance(code_version="1"))
    assert (tmp_path / "evaluation.json").stat().st_size < 300 * K
    assert load_report(tmp_path / "evaluation.json") == report


def test_the_page_stays_small(report: EvaluationReport) -> None:
    counts = tuple(3 + number % 5 for number in range(K))
    facts = SetFacts(images=sum(counts), counts=counts, asked=sum(counts), agreed=1)
    page = render(made_up_page(report=report, set=facts))
    assert len(page) < len(render(made_up_page())) + 60_000
    assert "With 10,000 classes nobody could read the matrix: evaluation.json has all of it" in page
    assert "Commonest mistakes" in page


@pytest.mark.parametrize("count", [MOST_COLUMNS, MOST_COLUMNS + 1, K])
def test_a_chart_of_many_classes_has_few_columns_of_the_right_height(count: int) -> None:
    chart = column_chart([4, 8] * (count // 2) + [6] * (count % 2), NAMES[:count], 6, "alt.")
    assert chart.count('class="column"') <= MOST_COLUMNS
    assert ("Each column is the mean of" in chart) == (count > MOST_COLUMNS)
    if count > MOST_COLUMNS:
        assert chart.count(f'height="{100 * 6 / 6.3:.2f}"') == chart.count('class="column"')


def test_the_card_looks_at_each_class_a_few_times(report: EvaluationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    rate = type(report.student.accuracy.per_class[0]).rate

    def counting(one: Any) -> float:
        nonlocal looked
        looked += 1
        return float(rate.fget(one))  # type: ignore[attr-defined]

    seen = report.student.accuracy.model_copy(
        update={"per_class": tuple(one.model_copy(update={"total": 2, "correct": 1}) for one in report.student.accuracy.per_class)}
    )
    full = report.model_copy(update={"student": report.student.model_copy(update={"accuracy": seen})})
    monkeypatch.setattr(type(report.student.accuracy.per_class[0]), "rate", property(counting))
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    fields = {"architecture": Architecture(name="x"), "spec": spec, "class_names": NAMES, "parameters": 1}
    info = BundleInfo.model_construct(**fields, weights_sha256="0" * 64, weights_bytes=1)
    card = model_card(CardSources(bundle=info, sha256="1" * 64, provenance=Provenance(code_version="2"), report=full))
    assert looked <= 5 * K
    assert len(card) < 20_000


def test_a_shard_counts_the_classes_that_it_has() -> None:
    logits = torch.zeros(3, K)
    logits[[0, 1, 2], [7, K - 1, 7]] = 1.0
    counted = count_shard(Shard(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([7, -1, 2]), logits))
    assert (counted["counts"], counted["asked"], counted["agreed"]) == (((7, 2), (K - 1, 1)), ((2, 1), (7, 1)), 1)
    totals = add_up([counted["counts"], counted["counts"]], K)
    assert (len(totals), totals[7], totals[K - 1], sum(totals)) == (K, 4, 2, 6)


def test_places_within_a_class_need_no_row_a_class() -> None:
    classes = torch.tensor([3, 1, 3, 3, 1, K - 1])
    assert _ranks(classes).tolist() == [1, 1, 2, 3, 2, 1]
    assert _ranks(torch.empty(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("work", [lambda: folder_names(NAMES, K), lambda: check_class_names(NAMES)], ids=["folders", "names"])
def test_no_name_is_counted_among_all_others(work: Callable[[], tuple[str, ...]]) -> None:
    counted = 0

    def watch(frame: FrameType, event: str, called: Any) -> None:
        nonlocal counted
        counted += event == "c_call" and called.__name__ in ("count", "index")

    sys.setprofile(watch)
    try:
        assert work() == NAMES
    finally:
        sys.setprofile(None)
    assert counted < 10


def test_moments_of_a_batch_touch_the_classes_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    widest = 0
    one_hot = torch.nn.functional.one_hot

    def watched(labels: torch.Tensor, classes: int) -> torch.Tensor:
        nonlocal widest
        widest = max(widest, classes)
        return one_hot(labels, classes)

    monkeypatch.setattr(torch.nn.functional, "one_hot", watched)
    running = RunningMoments(K, 2)
    values = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    running.update(values[:3], torch.tensor([9_999, 5, 9_999]))
    running.update(values[3:], torch.tensor([5]))
    assert widest <= 3
    assert running.count.nonzero()[:, 0].tolist() == [5, 9_999]
    for group, members in ((5, [1, 3]), (9_999, [0, 2])):
        flat = values[members].double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(running.mean[group], flat.mean(1))
        torch.testing.assert_close(running.variance()[group], flat.var(1))


def test_a_grid_takes_the_first_images_of_each_class() -> None:
    images = torch.arange(6, dtype=torch.uint8).mul(40).view(6, 1, 1, 1).expand(6, 1, 32, 32)
    few = class_grid(images, torch.tensor([1, 0, 1, 1, 0, 2]), 4, columns=2)
    again = class_grid(images[[1, 4, 0, 2, 5]], torch.tensor([0, 0, 1, 1, 2]), 4, columns=2)
    assert few == again
