import pytest

from distillery.evaluation.page import words
from page_data import made_up_report

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.97333, 1, "97.3 %"), (1.0, 2, "100 %"), (0.0, 1, "0 %"), (0.99999, 1, "99.9 %"), (0.999, 0, "99 %"), (0.00001, 1, "0.0 %")],
)
def test_percent(share: float, digits: int, text: str) -> None:
    assert words.percent(share, digits) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("number", "text"),
    [(500, "500 bytes"), (319_000, "319 kB"), (99_960, "100 kB"), (2_765_544, "2.8 MB"), (999_700, "1.0 MB"), (4.2e9, "4.2 GB")],
)
def test_size(number: float, text: str) -> None:
    assert words.size(number) == text.replace(" ", SPACE)


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4.2 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (40.0, "40"), (1500, "1.5k"), (1e-5, "1e-5"), (-0.0346, "-0.0346"), (2.5e7, "2.5e7")]
)
def test_axis_number(value: float, text: str) -> None:
    assert words.axis_number(value) == text


def test_factor_says_nothing_about_what_is_not_known() -> None:
    assert words.factor(90, 10) == "9.0×"
    assert words.factor(1000, 1) == "1000×"
    assert words.factor(0, 10) == words.factor(10, 0) == ""


def test_the_interval_is_wilsons() -> None:
    low, high = words.interval(438, 450)
    assert (round(low, 4), round(high, 4)) == (0.954, 0.9847)
    assert words.interval(450, 450)[1] == 1.0
    assert words.interval(0, 450)[0] == 0.0
    assert words.interval(0, 0) == (0.0, 1.0)


def test_mistakes_are_sorted_by_how_often_they_happen() -> None:
    matrix = [[5, 2, 0], [0, 9, 7], [1, 0, 3]]
    assert words.confused(("a", "b", "c"), matrix) == [("b", "c", 7), ("a", "b", 2), ("c", "a", 1)]
    assert words.confused(("a", "b", "c"), matrix, most=1) == [("b", "c", 7)]


def test_the_headline_does_not_call_agreement_accuracy() -> None:
    sentences = " ".join(words.headline(made_up_report(("a", "b"), labelled=False)))
    assert "right;" not in sentences
    assert "No test images were given" in sentences
    assert "9.0 times smaller" in sentences


def test_behind() -> None:
    report = made_up_report(("a", "b", "c"))
    student, teacher = (model.accuracy.top1 for model in (report.student, report.teacher))
    assert words.behind(report) == f"{100 * (teacher - student):.1f} points behind"
    level = report.model_copy(update={"student": report.teacher})
    assert words.behind(level) == "level"
