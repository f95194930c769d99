"""Numbers and names as a reader who never met the field would want them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from distillery.evaluation.accuracy import Cells
from distillery.evaluation.report import EvaluationReport, ModelReport, SnapshotScore
from distillery.grammar import counted
from distillery.reporting.real_images import RealImages, tell_real_images

_SPACE = "\N{NO-BREAK SPACE}"
_SIGMAS = 1.96
_ONCE = "1.0×"

TERMS = {
    "moments": "How far the statistics of the synthetic images, inside the teacher, are from those it keeps of its own training.",
    "label": "How far the teacher is from naming each synthetic image as the class that it was asked for.",
    "adversarial": "Drives the images to where student and teacher still disagree. Below zero is usual: the lower, the harder the images.",
    "competition": "Drives the images to where the student's answers are far from the teacher's: the lower, the farther.",
    "total_variation": "How ragged the images are: neighbouring pixels that differ cost something.",
    "total_variation_l1": "How ragged the images are: neighbouring pixels that differ cost something.",
    "norm": "How bright the images are: pixels far from the average of what the teacher saw cost something.",
    "l2": "How bright the images are: large pixel values cost something.",
    "kd": "How far the student's answers are from the teacher's, over all classes and not only the first choice.",
    "ce": "How far the student is from the teacher's first choice.",
    "cross_entropy": "How far the student is from the label of each picture.",
    "fsp": "How far the way in which the student's features change from stage to stage is from the teacher's.",
    "hint": "How far a layer of the student, seen through a regressor, is from a layer of the teacher.",
    "attention": "How far the places that the student looks at are from those that the teacher looks at.",
}
TITLES = {
    "moments": "BatchNorm moments: matching the teacher's statistics",
    "label": "Cross-entropy: showing the class asked for",
    "adversarial": "Adversarial term: finding disagreement",
    "competition": "Competition: driving student and teacher apart",
    "total_variation": "Total variation: smoothness",
    "total_variation_l1": "Total variation, mean form: smoothness",
    "norm": "Norm of the pixels: moderate brightness",
    "l2": "Squared pixels (L2): moderate brightness",
    "kd": "Distillation loss (KL): following the teacher",
    "ce": "Cross-entropy: naming the teacher's class",
    "cross_entropy": "Cross-entropy: naming the true class",
    "fsp": "FSP: the teacher's relations between layers",
    "hint": "FitNets hint: a layer of the teacher",
    "attention": "Attention transfer: looking where the teacher looks",
}
HARDWARE = {"cpu": "a CPU", "cuda": "a GPU", "float32": "float32", "bfloat16": "bfloat16"}
PARTS = {
    "synthesis": "making images",
    "student": "training the student",
    "io": "reading and writing",
    "check": "checking on held-out images",
    "other": "starting up and the rest",
}
SOURCES = {
    "test set": "labelled test images that the student never saw",
    "held-out synthetic": "synthetic images that were kept back from the student's training",
    "held-out images": "given images that were kept back from the student's training",
    "training images": "images that the student was given to train on",
    "training synthetic": "synthetic images that the student was trained on",
}


def percent(share: float, digits: int = 1) -> str:
    """A share as `97.3 %`; all and nothing are `100 %` and `0 %`, and what is not quite all never reads as 100."""
    text = f"{100 * share:.{digits}f}"
    if share in (0, 1):
        text = f"{100 * share:.0f}"
    elif share < 1 and float(text) == 100:
        text = f"{100 - 10.0**-digits:.{digits}f}"
    return f"{text}{_SPACE}%"


def count(number: float) -> str:
    """A whole number with its thousands apart: `691,386`."""
    return f"{round(number):,}"


def size(num_bytes: float) -> str:
    """A file's size: `309 kB`, `2.8 MB`, in thousands."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f}{_SPACE}bytes"
    return _scaled(num_bytes, (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)))


def operations(flops: float) -> str:
    """Floating point operations: `12.6 million`."""
    if flops < 1e3:
        return f"{flops:.0f}"
    return _scaled(flops, (("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12)))


def milliseconds(value: float) -> str:
    """A short time: `0.84 ms`."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{_SPACE}ms"


def duration(seconds: float) -> str:
    """A time as a person says it: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min{_SPACE}{rest:02}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h{_SPACE}{minutes % 60:02}{_SPACE}min"


def axis_number(value: float) -> str:
    """A number beside an axis, short: `0.25`, `40`, `1.5k`, `1e-5`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    if abs(value) >= 1000:
        return f"{value / 1000:.6g}k"
    return f"{value:.6g}"


def axis_percent(share: float) -> str:
    """A share beside an axis, as short as it can be told apart from its neighbours: `98 %`, `97.5 %`."""
    return f"{100 * share:.6g}{_SPACE}%"


def factor(large: float, small: float) -> str:
    """How many times `small` goes into `large`: `8.9×`; empty where one of them is not known."""
    if large <= 0 or small <= 0:
        return ""
    ratio = large / small
    return f"{ratio:.0f}×" if ratio >= 99.5 else f"{ratio:.1f}×"


class Comparison(NamedTuple):
    """How a student's cost stands to its teacher's.

    Attributes:
        word: which way, such as `less` or `more`; empty where one of them is not known.
        factor: how many times, never below one: `8.9×`.
    """

    word: str = ""
    factor: str = ""

    @property
    def text(self) -> str:
        """`8.9× less`, `1.3× more`, `the same`."""
        return self.word if self.factor == _ONCE else f"{self.factor} {self.word}".strip()


def compared(teacher: float, student: float, less: str = "less", more: str = "more", same: str = "the same") -> Comparison:
    """Compare two costs, as far as both are known.

    Args:
        teacher: its cost; 0 or less is not known.
        student: its cost.
        less: the word where the student costs less.
        more: where it costs more.
        same: where it costs as much, to the digits that are shown.
    """
    times = factor(max(teacher, student), min(teacher, student))
    if not times:
        return Comparison()
    return Comparison(same if times == _ONCE else less if teacher > student else more, times)


def sized(teacher: ModelReport, student: ModelReport) -> str:
    """Who learned from whom, as the end of "A network learned from": `a larger one`, `a smaller one`, `one of its size`."""
    found = compared(teacher.cost.parameters, student.cost.parameters, "a larger one", "a smaller one", "one of its size")
    return found.word or "another"


def interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share that was counted: (c + z^2/2 +- z sqrt(c (n - c) / n + z^2/4)) / (n + z^2).

    Args:
        correct: c.
        total: n; of nothing nothing is known.

    Source: Wilson 1927.
    """
    if not total:
        return 0.0, 1.0
    share, weight = correct / total, _SIGMAS**2 / total
    middle, half = share + weight / 2, _SIGMAS * math.sqrt(share * (1 - share) / total + weight / total / 4)
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return low if correct else 0.0, high if correct < total else 1.0


def between(correct: int, total: int) -> str:
    """The interval as text: `95.4 % to 98.5 %`."""
    low, high = interval(correct, total)
    return f"{percent(low)} to {percent(high)}"


def images(number: int) -> str:
    """`450 images`, `1 image`."""
    return counted(number, "image")


def headline(report: EvaluationReport, real: RealImages | None = None) -> list[str]:
    """What came out, in a few plain sentences.

    Args:
        report: the evaluation.
        real: which real images the student comes from; None where nobody looked.
    """
    student, teacher = report.student, report.teacher
    if not report.compared:
        first = (
            f"Shown {images(report.images)} it had never seen, the student names {percent(student.accuracy.top1)} right (top-1 accuracy)."
        )
        agreed = (
            f"Its {count(len(report.class_names))} classes are others than the teacher's {count(len(report.teacher_classes))}, so nothing "
            "compares their answers."
        )
    elif report.labelled:
        first = (
            f"Shown {images(report.images)} it had never seen, the student names {percent(student.accuracy.top1)} right (top-1 accuracy); "
            f"the teacher that it learned from names {percent(teacher.accuracy.top1)} right."
        )
        agreed = f"The two give the same answer {percent(report.agreement.rate)} of the time."
    else:
        kinds = {"training images": "those that it was given", "held-out images": "those that were kept back"}
        where = kinds.get(report.source, "its synthetic set")
        first = (
            f"On {images(report.images)} of {where} the student gives the teacher's answer {percent(report.agreement.rate)} of the time."
        )
        agreed = "No test images were given, so nothing on this page says how often either of them is right."
    return [first, agreed, _savings(teacher, student), *tell_real_images(real)]


def behind(report: EvaluationReport) -> str:
    """The student's distance to the teacher in points: `0.4 points behind`, `level`."""
    points = 100 * (report.teacher.accuracy.top1 - report.student.accuracy.top1)
    if abs(points) < 0.05:
        return "level"
    return f"{abs(points):.1f} point{'s' * (f'{abs(points):.1f}' != '1.0')} {'behind' if points > 0 else 'ahead'}"


def best_state(score: SnapshotScore) -> str:
    """What the best epoch is called: after which epoch, and on how many images it was chosen, as far as that is known."""
    number = f" ({count(score.epoch)})" if score.epoch else ""
    return f"Best epoch{number}, chosen on {images(score.chosen_on) + ' kept back' if score.chosen_on else 'images kept back'}"


def confused(names: Sequence[str], confusion: Cells, most: int = 5) -> list[tuple[str, str, int]]:
    """The commonest mistakes as (shown, taken for, times), most frequent first."""
    wrong = [(times, label, answer) for label, answer, times in confusion if label != answer]
    wrong.sort(key=lambda mistake: (-mistake[0], mistake[1], mistake[2]))
    return [(names[row], names[column], times) for times, row, column in wrong[:most]]


def _savings(teacher: ModelReport, student: ModelReport) -> str:
    size_of = compared(teacher.cost.parameters, student.cost.parameters, "smaller", "larger", "as large")
    needs = compared(teacher.cost.flops, student.cost.flops, "less arithmetic", "more arithmetic", "as much arithmetic")
    if not size_of.word:
        return f"It has {count(student.cost.parameters)} learned numbers, the teacher {count(teacher.cost.parameters)}."
    arithmetic = f" and needs {_times(needs)} for an image" if needs.word else ""
    return f"It is {_times(size_of)}{arithmetic}."


def _times(found: Comparison) -> str:
    return found.word if found.factor == _ONCE else f"{found.factor.removesuffix('×')} times {found.word}"


def _scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    name, unit = next((pair for pair in reversed(units) if value >= pair[1] * 0.9995), units[0])
    scaled = value / unit
    return f"{scaled:.{1 if scaled < 99.95 else 0}f}{_SPACE}{name}"
