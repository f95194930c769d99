"""Charts as inline SVG, drawn in colours of the page's style sheet, so that light, dark and print need one drawing.

The drawing stretches to the width that the page has while its labels are text of the page beside it: they keep their size on a phone.
Inside a drawing, coordinates go from 0 to 100, y downwards.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from distillery.evaluation.calibration import ReliabilityBin
from distillery.reporting.words import axis_number, count, percent

MOST_POINTS = 300
MARKED_POINTS = 16
MOST_COLUMNS = 400
"""Columns of a chart; of more classes than that, several share one."""
_SIZE = 100.0
_LABELS = 4
_TINY = 1e-280  # below it a step would lose its digits
_APART = 0.15  # shares of the height that two labels need to stand one above the other
_NAMED, _LETTERS = 20, 40  # columns that have room for a name each, and letters of all names together in one line

Point = tuple[float, float]


class Series(NamedTuple):
    """One line of a chart; its place among the lines chooses colour and dashes."""

    name: str
    points: Sequence[Point]


class Scale(NamedTuple):
    """Values to positions from 0 to 100.

    Attributes:
        low: value at 0.
        high: value at 100.
        log: whether equal factors are equal distances.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def covering(cls, values: Sequence[float], log: bool = False) -> "Scale":
        """The smallest scale between round numbers that holds all values; logarithmic only where all are above 0."""
        low, high = min(values), max(values)
        if log and low > 0:
            low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
            return cls(low, high if high > low else low * 10, log=True)
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * max(size, _TINY):  # too little to be cut into steps
            margin = size / 2 if size > _TINY else 1.0
            low, high = low - margin, high + margin
        for _ in range(3):  # rounding widens the span, which may ask for a wider step
            step = _step(high - low)
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high)

    def at(self, value: float) -> float:
        """Position of a value."""
        low, high, value = (math.log10(number) for number in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return _SIZE * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values to label, at most six."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / _LABELS)))]
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    series: Sequence[Series], alt: str, x_name: str, y_text: Callable[[float], str] = axis_number, scale: Scale | None = None
) -> Markup:
    """Lines over rounds or epochs.

    Args:
        series: at least one, each with at least one point.
        alt: what the chart shows, for those who do not see it.
        x_name: what is counted along the bottom.
        y_text: how a value is written beside the chart.
        scale: of the values; None covers them. Where it is logarithmic the rounds are too, for few are measured and the first matter most.
    """
    points = [point for line in series for point in line.points]
    down = scale or Scale.covering([y for _, y in points])
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    across = Scale(first, last if last > first else first + 1, log=down.log)
    grid = [f'<path class="grid" d="M0 {_y(down, value)}H100"/>' for value in down.ticks()]
    lines = [_line(index, [(across.at(x), down.at(y)) for x, y in thin(line.points)]) for index, line in enumerate(series)]
    beside = Markup("").join(_label("bottom", down.at(value), y_text(value)) for value in down.ticks())
    below = Markup("").join(_label("left", across.at(value), axis_number(value)) for value in _whole_ticks(across))
    return Markup(
        '<div class="chart" role="img" aria-label="{alt}"><div class="ticks" aria-hidden="true">{beside}</div>'
        '<svg class="plot" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>'
        '<div class="below" aria-hidden="true">{below}</div><div class="axis" aria-hidden="true">{name}</div></div>'
    ).format(alt=alt, beside=beside, drawing=Markup("".join(grid + lines)), below=below, name=x_name)


def key(index: int) -> Markup:
    """A stroke as the line `index` of a chart has it, for a legend."""
    return Markup(
        f'<svg class="key" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{_stroke(index, "M0 50H100")}</svg>'
    )


def reliability_chart(teacher: Sequence[ReliabilityBin], student: Sequence[ReliabilityBin], alt: str) -> Markup:
    """Accuracy over confidence, a dot a bin with images, its area the share of them; the diagonal is honest confidence.

    Args:
        teacher: its bins.
        student: its bins.
        alt: what the chart shows, for those who do not see it.
    """
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    grid = [f'<path class="grid" d="M0 {100 * tick:g}H100M{100 * tick:g} 0V100"/>' for tick in ticks]
    dots = [*_dots(teacher, "teacher"), *_dots(student, "student")]
    drawing = Markup("".join([*grid, '<path class="diagonal" d="M0 100L100 0"/>', *dots]))
    beside = Markup("").join(_label("bottom", 100 * tick, percent(tick, 0)) for tick in ticks)
    below = Markup("").join(_label("left", 100 * tick, percent(tick, 0)) for tick in ticks)
    return Markup(
        '<div class="chart square" role="img" aria-label="{alt}"><div class="ticks" aria-hidden="true">{beside}</div>'
        '<svg class="plot" viewBox="0 0 100 100" aria-hidden="true">{drawing}</svg>'
        '<div class="below" aria-hidden="true">{below}</div><div class="axis" aria-hidden="true">how sure the model is</div></div>'
    ).format(alt=alt, beside=beside, drawing=drawing, below=below)


def column_chart(values: Sequence[int], names: Sequence[str], even: float, alt: str) -> Markup:
    """Counts by class beside an even share.

    Args:
        values: at least one count; several classes share a column where there are many.
        names: one each; shown below while there are few.
        even: the count of each class if all had as many.
        alt: what the chart shows, for those who do not see it.
    """
    together = -(-len(values) // MOST_COLUMNS)
    if together > 1:
        values = [round(sum(part) / len(part)) for part in (values[at : at + together] for at in range(0, len(values), together))]
        alt = f"{alt} Each column is the mean of {together} classes that follow one another."
    top = max(*values, even, 1) * 1.05
    width = _SIZE / len(values)
    columns = [
        f'<rect class="column" x="{(index + 0.12) * width:.3f}" y="{_SIZE * (1 - value / top):.2f}" '
        f'width="{0.76 * width:.3f}" height="{_SIZE * value / top:.2f}"/>'
        for index, value in enumerate(values)
    ]
    line = f'<path class="even" d="M0 {_SIZE * (1 - even / top):.2f}H100"/>'
    shown = names if len(names) <= _NAMED else ()
    turned = " turned" if shown and max(map(len, names)) * len(names) > _LETTERS else ""
    below = Markup("").join(_label("left", (index + 0.5) * width, name) for index, name in enumerate(shown))
    zero = _label("bottom", 0, "0") if even / top > _APART else Markup("")
    beside = zero + _label("bottom", 100 * even / top, count(even))
    return Markup(
        '<div class="chart low{turned}" role="img" aria-label="{alt}"><div class="ticks" aria-hidden="true">{beside}</div>'
        '<svg class="plot" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>'
        '<div class="below" aria-hidden="true">{below}</div></div>'
    ).format(alt=alt, beside=beside, drawing=Markup("".join([*columns, line])), below=below, turned=turned)


def share_bar(shares: Sequence[tuple[str, float]], alt: str) -> Markup:
    """One bar cut into parts.

    Args:
        shares: class of the style sheet and size of each part; sizes are at least 0 and not all 0.
        alt: what the bar shows, for those who do not see it.
    """
    total, start, parts = sum(size for _, size in shares), 0.0, []
    for name, size in shares:
        width = _SIZE * size / total
        parts.append(f'<rect class="part {escape(name)}" x="{start:.3f}" y="0" width="{width:.3f}" height="100"/>')
        start += width
    return Markup('<svg class="bar" role="img" aria-label="{}" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>').format(
        alt, Markup("".join(parts))
    )


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points, evenly taken, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def _line(index: int, positions: Sequence[Point]) -> str:
    places = [(x, _SIZE - y) for x, y in positions]
    drawn = _stroke(index, "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places)) if len(places) > 1 else ""
    if len(places) > MARKED_POINTS:
        return drawn
    # a stroke of no length with round ends stays a circle however the drawing is stretched
    return drawn + f'<path class="dots c{index % 6}" d="{"".join(f"M{x:.2f} {y:.2f}h0" for x, y in places)}"/>'


def _stroke(index: int, path: str) -> str:
    return f'<path class="line c{index % 6}" d="{path}"/>'


def _dots(bins: Sequence[ReliabilityBin], who: str) -> list[str]:
    total = sum(part.count for part in bins) or 1
    filled = [part for part in bins if part.count]
    return [
        f'<circle class="{who}" cx="{_SIZE * part.confidence:.2f}" cy="{_SIZE * (1 - part.accuracy):.2f}" '
        f'r="{1.2 + 5 * math.sqrt(part.count / total):.2f}"/>'
        for part in filled
    ]


def _label(side: str, place: float, text: str) -> Markup:
    return Markup('<span style="{}:{}%">{}</span>').format(side, f"{place:.2f}", text)


def _y(scale: Scale, value: float) -> str:
    return f"{_SIZE - scale.at(value):.2f}"


def _whole_ticks(scale: Scale) -> list[float]:
    """Whole numbers along the bottom, the first and the last round among them."""
    if scale.log:
        powers = [2.0**power for power in range(math.ceil(math.log2(scale.low)), math.floor(math.log2(scale.high)) + 1)]
        return powers[:: math.ceil(len(powers) / 8)] or [scale.low, scale.high]
    span = scale.high - scale.low
    step = max(1.0, _step(span))
    inner = [number * step for number in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]
    kept = [value for value in inner if min(value - scale.low, scale.high - value) > 0.12 * span]
    return [scale.low, *kept, scale.high]


def _step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts `span` into about four."""
    rough = span / _LABELS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
