"""Several students as one: the mean of their softmax, with each member's score beside it."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from distillery.errors import ConfigError
from distillery.evaluation.ensemble import as_one, mean_answer
from distillery.evaluation.report import (
    EvaluationConfig,
    EvaluationImages,
    EvaluationReport,
    MeasuredModel,
    evaluate,
    load_report,
    save_report,
)
from distillery.evaluation.table import table
from distillery.provenance import Provenance
from distillery.types import Classifier, ImageSpec

SILENT = EvaluationConfig(batch=7, latency=False)
MEANS = (0.3, 0.5, 0.7)


def classifier(number: int, classes: int = 4, size: int = 5) -> Classifier:
    """Each with a normalisation of its own."""
    torch.manual_seed(number)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * (size - 2) ** 2, classes))
    spec = ImageSpec(channels=1, height=size, width=size, mean=(MEANS[number % 3],), std=(0.2,))
    return Classifier(network, spec, tuple("abcdefgh"[:classes])).eval()


def data(n: int = 40) -> EvaluationImages:
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (n, 1, 5, 5), generator=draws, dtype=torch.uint8)
    return EvaluationImages(images, torch.randint(0, 4, (n,), generator=draws), "test set")


def test_the_answer_is_the_mean_of_the_softmax() -> None:
    draws = torch.Generator().manual_seed(1)
    logits = [3 * torch.randn(6, 5, generator=draws, dtype=torch.float64) for _ in range(3)]
    found = mean_answer(logits).softmax(1)
    for row in range(6):
        shares = [[z.exp() / sum(one.exp() for one in answers[row]) for z in answers[row]] for answers in logits]
        wanted = torch.stack([torch.stack([share[k] for share in shares]).sum() / 3 for k in range(5)])
        torch.testing.assert_close(found[row], wanted, rtol=1e-12, atol=0)
    sure = mean_answer([torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])])
    assert torch.equal(sure.softmax(1), torch.tensor([[0.5, 0.5]])), "nobody's certainty becomes infinite"


def test_each_member_normalises_for_itself() -> None:
    members = [classifier(number) for number in range(3)]
    images = torch.rand(9, 1, 5, 5)
    with torch.no_grad():
        wanted = torch.stack([member(images).softmax(1) for member in members]).mean(0)
        torch.testing.assert_close(as_one(members).eval()(images).softmax(1), wanted)


def together(members: list[Classifier]) -> EvaluationReport:
    each = tuple(MeasuredModel(member, f"net{number}", f"{number}" * 64, 100) for number, member in enumerate(members))
    one = MeasuredModel(as_one(members), "mean of 3", weights_bytes=300, members=each)
    return evaluate(MeasuredModel(classifier(9)), one, data(), SILENT)


def test_the_report_scores_the_mean_and_each_member_as_if_alone(tmp_path: Path) -> None:
    members = [classifier(number) for number in range(3)]
    found, given = together(members), data()
    pixels = given.images.float() / 255
    with torch.no_grad():
        answer = torch.stack([member(pixels).softmax(1) for member in members]).mean(0)
    assert given.labels is not None
    assert found.student.accuracy.correct == int((answer.argmax(1) == given.labels).sum())
    assert found.student.cost.parameters == sum(member.cost.parameters for member in found.members)
    for number, member in enumerate(found.members):
        alone = evaluate(MeasuredModel(classifier(9)), MeasuredModel(members[number]), given, SILENT)
        assert (member.accuracy, member.calibration, member.agreement) == (
            alone.student.accuracy,
            alone.student.calibration,
            alone.agreement,
        )
    assert [member.sha256[:1] for member in found.members] == ["0", "1", "2"]
    save_report(tmp_path / "report.json", found, Provenance(code_version="1"))
    assert load_report(tmp_path / "report.json") == found
    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None).print(table(found))
    for member in found.members:
        (top1, agrees) = (line for line in stream.getvalue().splitlines() if f"{member.name} {member.sha256[:12]} alone" in line)
        assert f"({member.accuracy.correct}/40)" in top1
        assert f"({member.agreement.agreed}/40)" in agrees


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (classifier(1, classes=3), "tell other classes apart: a, b, c, d and a, b, c; give"),
        (classifier(1, size=6), r"expect images \(1, 5, 5\) and \(1, 6, 6\)"),
    ],
)
def test_students_that_cannot_be_averaged_are_one_sentence(other: Classifier, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        as_one([classifier(0), other])
