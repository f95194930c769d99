import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillery.evaluation.calibration import ReliabilityBin
from distillery.reporting.charts import MOST_POINTS, Scale, Series, column_chart, line_chart, reliability_chart, share_bar, thin
from distillery.reporting.words import axis_number, axis_percent

NUMBERS = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30)


def path_of(chart: str, kind: str) -> list[tuple[float, float]]:
    found = re.search(rf'class="{kind} c0" d="([^"]+)"', chart)
    assert found is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", found[1])]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = line_chart([Series("a", [(1, 0.0), (3, 100.0), (5, 50.0)])], "alt", "round")
    assert path_of(chart, "line") == [(0, 100), (50, 0), (100, 50)]
    assert path_of(chart, "dots") == path_of(chart, "line")


@pytest.mark.parametrize(
    ("values", "text", "shown"),
    [
        ([0.97, 0.987], axis_percent, ["97 %", "97.5 %", "98 %", "98.5 %"]),
        ([0.37, 0.945], axis_percent, ["40 %", "60 %", "80 %", "100 %"]),
        ([0.99926, 0.99974], axis_percent, ["99.92 %", "99.94 %", "99.96 %", "99.98 %"]),
        ([560.012, 560.038], axis_number, ["560.01", "560.02", "560.03", "560.04"]),
        ([6.012e-4, 6.038e-4], axis_number, ["6.01e-4", "6.02e-4", "6.03e-4", "6.04e-4"]),
    ],
)
def test_no_two_lines_of_the_grid_are_called_the_same(values: list[float], text: Callable[[float], str], shown: list[str]) -> None:
    chart = line_chart([Series("a", [(1, values[0]), (2, values[1])])], "alt", "epoch", text)
    beside = re.findall(r'<span style="bottom[^"]*">([^<]+)</span>', chart)
    assert [label.replace("\N{NO-BREAK SPACE}", " ") for label in beside if label.replace("\N{NO-BREAK SPACE}", " ") in shown] == shown
    assert len(set(beside)) == len(beside)


def test_a_logarithmic_scale_gives_equal_factors_equal_distances() -> None:
    scale = Scale.covering([0.02, 30.0], log=True)
    assert (scale.low, scale.high) == (pytest.approx(0.01), pytest.approx(100))
    assert [scale.at(value) for value in (0.01, 0.1, 1, 10, 100)] == pytest.approx([0, 25, 50, 75, 100])
    chart = line_chart([Series("a", [(1, 1.0), (4, 10.0), (16, 100.0)])], "alt", "round", scale=Scale(1, 100, log=True))
    assert path_of(chart, "line") == [(0, 100), (50, 50), (100, 0)]


@given(NUMBERS)
@example([5e-324])
@example([0.0, 5e-324])
@example([1e9, 1e9 - 1e-7])
def test_a_scale_covers_its_values_and_its_ticks_lie_on_it(values: list[float]) -> None:
    scale = Scale.covering(values)
    assert all(-1e-6 <= scale.at(value) <= 100 + 1e-6 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(-1e-6 <= scale.at(tick) <= 100 + 1e-6 for tick in ticks)


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=30))
def test_a_logarithmic_scale_covers_its_values(values: list[float]) -> None:
    scale = Scale.covering(values, log=True)
    assert all(-1e-6 <= scale.at(value) <= 100 + 1e-6 for value in values)
    assert all(scale.low * 0.999 <= tick <= scale.high * 1.001 for tick in scale.ticks())


def test_values_that_are_not_all_positive_get_a_plain_scale() -> None:
    assert not Scale.covering([-1.0, 5.0], log=True).log


@pytest.mark.parametrize("points", [[(1.0, 3.0)], [(1.0, 0.0), (2.0, 0.0)], [(4.0, -2.5)] * 3])
def test_a_flat_or_single_line_is_drawn(points: list[tuple[float, float]]) -> None:
    chart = line_chart([Series("a", points)], "alt", "round")
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in path_of(chart, "dots"))


def test_many_points_are_thinned_and_the_ends_stay() -> None:
    points = [(float(x), float(x * x)) for x in range(5000)]
    kept = thin(points)
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert thin(points[:10]) == points[:10]


def test_a_dot_of_a_reliability_diagram_stands_at_confidence_and_accuracy() -> None:
    full = ReliabilityBin(lower=0.6, upper=0.8, count=75, confidence=0.7, accuracy=0.4)
    small = ReliabilityBin(lower=0.8, upper=1.0, count=25, confidence=0.9, accuracy=1.0)
    empty = ReliabilityBin(lower=0.0, upper=0.2, count=0, confidence=0.0, accuracy=0.0)
    chart = reliability_chart([], [empty, full, small], "alt")
    dots = re.findall(r'<circle class="student" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', chart)
    assert [(float(x), float(y)) for x, y, _ in dots] == [(70, 60), (90, 0)]
    assert float(dots[0][2]) > float(dots[1][2])
    assert 'class="teacher"' not in chart


def test_columns_are_as_high_as_their_counts() -> None:
    chart = column_chart([10, 0, 30], ["a", "b", "c"], 40 / 3, "alt")
    heights = [float(height) for height in re.findall(r'class="column"[^>]*height="([\d.]+)"', chart)]
    assert heights[1] == 0
    assert heights[2] == pytest.approx(3 * heights[0], abs=0.05)
    assert heights[2] < 100


def test_the_labels_of_a_line_near_the_ground_do_not_stand_on_each_other() -> None:
    assert ">0<" in column_chart([10, 0, 30], ["a", "b", "c"], 40 / 3, "alt")
    low = column_chart([5000, 299], ["a", "b"], 300, "alt")
    assert ">0<" not in low
    assert ">300<" in low


def test_parts_of_a_bar_fill_it_in_order() -> None:
    bar = share_bar([("synthesis", 1.0), ("io", 0.0), ("student", 3.0)], "alt")
    found = re.findall(r'class="part (\w+)" x="([\d.]+)" y="0" width="([\d.]+)"', bar)
    assert [(name, float(x), float(width)) for name, x, width in found] == [("synthesis", 0, 25), ("io", 25, 0), ("student", 25, 75)]


@pytest.mark.parametrize(
    "chart",
    [
        line_chart([Series("<b>", [(1, 2.0), (2, 3.0)])], 'alt" onload="x', "<i>"),
        column_chart([1, 2], ["<b>", "x"], 1.5, 'alt" onload="x'),
        share_bar([('a" onload="x', 1.0)], 'alt" onload="x'),
    ],
)
def test_texts_are_escaped(chart: str) -> None:
    assert "<b>" not in chart
    assert "<i>" not in chart
    assert '" onload="' not in chart
