import re
from html import unescape
from typing import Any

import pytest

from distillery.evaluation.report import EvaluationReport
from distillery.reporting import words
from distillery.reporting.render import render
from page_data import made_up_page, made_up_report

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
    matrix = ((0, 0, 5), (0, 1, 2), (1, 1, 9), (1, 2, 7), (2, 0, 1), (2, 2, 3))
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


@pytest.mark.parametrize(
    ("teacher", "student", "text"),
    [
        (90, 10, "9.0× less"),
        (10, 12.6, "1.3× more"),
        (10, 500, "50.0× more"),
        (1, 1000, "1000× more"),
        (7, 7, "the same"),
        (1000, 1010, "the same"),
        (1060, 1000, "1.1× less"),
        (0, 10, ""),
        (10, 0, ""),
        (0, 0, ""),
    ],
)
def test_a_student_that_costs_more_is_never_told_as_one_that_costs_less(teacher: float, student: float, text: str) -> None:
    assert words.compared(teacher, student).text == text


SIZES = {
    "smaller": ((9, 9), "9.0 times smaller and needs 9.0 times less arithmetic for an image"),
    "larger": ((0.4, 0.02), "2.5 times larger and needs 50.0 times more arithmetic for an image"),
    "smaller but slower": ((2, 0.5), "2.0 times smaller and needs 2.0 times more arithmetic for an image"),
    "equal": ((1, 1), "as large and needs as much arithmetic for an image"),
    "arithmetic not known": ((4, 0), "4.0 times smaller."),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_headline_says_which_of_the_two_is_larger(name: str) -> None:
    (parameters, flops), said = SIZES[name]
    report = of_size(parameters, flops)
    assert said in words.headline(report)[2]
    assert " 0.0" not in words.headline(report)[2]


def of_size(parameters: float, flops: float, latency: float = 1.0) -> EvaluationReport:
    """A report whose teacher costs so many times what its student does; 0 is not known, a negative latency not measured."""
    report = made_up_report(("cat", "dog", "owl"))
    cost = report.student.cost
    changes: dict[str, Any] = {"parameters": round(cost.parameters * parameters), "flops": round(cost.flops * flops)}
    changes["weights_bytes"] = round(cost.weights_bytes * parameters)
    timed = cost.latency[0].model_copy(update={"milliseconds": cost.latency[0].milliseconds * latency})
    changes["latency"] = (timed,) if latency >= 0 else ()
    return report.model_copy(update={"teacher": report.teacher.model_copy(update={"cost": cost.model_copy(update=changes)})})


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split()).replace(SPACE, " ")


def test_a_page_of_a_larger_student_says_so_everywhere() -> None:
    page = text_of(render(made_up_page(report=of_size(0.4, 0.02, 0.5))))
    for said in (
        "More parameters 2.5×",
        "More FLOPs: more arithmetic 50.0×",
        "Higher CPU latency: slower, one image 2.0×",
        "2.5× more",
        "50.0× more",
        "2.0× slower",
        "a smaller one",
    ):
        assert said in page
    for wrong in ("Fewer", "less arithmetic", "Lower CPU", "0.4×", " 0.0×", "× less", "faster", "a larger one", "small network"):
        assert wrong not in page


def test_a_page_of_equals_and_of_what_is_not_known() -> None:
    page = text_of(render(made_up_page(report=of_size(1, 1, 1))))
    for said in (
        "As many parameters 1.0×",
        "As many FLOPs: as much arithmetic 1.0×",
        "Equal CPU latency: as fast, one image 1.0×",
        "the same",
        "one of its size",
    ):
        assert said in page
    for wrong in ("Fewer", "More parameters", "× less", "× more", "faster", "slower"):
        assert wrong not in page
    page = text_of(render(made_up_page(report=of_size(4, 0, -1))))
    assert "Fewer parameters 4.0×" in page
    for wrong in ("arithmetic 0", "Fewer FLOPs", "Lower CPU", " 0.0×", "CPU latency,"):
        assert wrong not in page


def test_a_page_of_a_smaller_student_says_what_it_always_said() -> None:
    page = text_of(render(made_up_page(report=of_size(9, 9, 9))))
    for said in (
        "Fewer parameters 9.0×",
        "Fewer FLOPs: less arithmetic 9.0×",
        "Lower CPU latency: faster, one image 9.0×",
        "9.0× less",
        "9.0× faster",
        "a larger one",
    ):
        assert said in page


def test_a_tile_of_a_ratio_shows_the_two_numbers_that_it_is_of() -> None:
    page = text_of(render(made_up_page(report=of_size(9, 9, 9))))
    assert "Fewer parameters 9.0× 77,754 learned numbers instead of 699,786" in page


def test_the_fields_terms_stand_beside_the_plain_words() -> None:
    page = unescape(text_of(render(made_up_page(tuple(f"class {number}" for number in range(6))))))
    for said in (
        "Top-1 accuracy: images named right",
        "Top-5 accuracy right within five guesses",
        "Expected calibration error (ECE) confidence off by",
        "Agreement: same answer as the teacher",
        "KL divergence how far its answers are from the teacher's, in nats",
        "Parameters learned numbers",
        "FLOPs arithmetic for an image",
        "CPU latency, batch 1, 2 threads time for 1 image",
        "Confusion matrix: what is taken for what",
        "Reliability diagram:",
        "Class entropy evenness of the classes",
        "BatchNorm moments: matching the teacher's statistics",
        "Distillation loss (KL): following the teacher",
    ):
        assert said in page, said
