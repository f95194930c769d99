import math

import pytest
import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.evaluation.accuracy import Accuracy, cells_of, confusion_cells, whole_matrix
from distillery.evaluation.agreement import Agreement
from distillery.evaluation.calibration import Calibration


def names(k: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(k))


def random_scores(n: int = 200, k: int = 8) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, k, generator=stream) * 3, torch.randint(0, k, (n,), generator=stream)


def slow_kl(teacher: Tensor, student: Tensor) -> float:
    """Mean over images of sum_k p (log p - log q), from the definition, number by number."""
    total = 0.0
    for t, s in zip(teacher.double().tolist(), student.double().tolist(), strict=True):
        p = [math.exp(x) / sum(math.exp(y) for y in t) for x in t]
        q = [math.exp(x) / sum(math.exp(y) for y in s) for x in s]
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return total / len(teacher)


def slow_ece(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Guo et al.: walk the bins (m/M, (m+1)/M] and average |accuracy - confidence| by their share."""
    confidence, predicted = logits.double().softmax(1).max(1)
    ece = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence.tolist()) if m / bins < c <= (m + 1) / bins]
        if inside:
            accuracy = sum(int(predicted[i] == labels[i]) for i in inside) / len(inside)
            mean = sum(confidence[i].item() for i in inside) / len(inside)
            ece += len(inside) / len(labels) * abs(accuracy - mean)
    return ece


def test_top1_and_top5_equal_a_walk_over_the_images() -> None:
    logits, labels = random_scores()
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    ranks = [sorted(range(8), key=lambda k, row=row: -row[k]).index(label) for row, label in rows]
    found = Accuracy.measure(logits, labels, names(8))
    assert (found.correct, found.top5_correct, found.total) == (sum(r < 1 for r in ranks), sum(r < 5 for r in ranks), 200)
    assert found.top1 == found.correct / 200
    assert found.top5 == found.top5_correct / 200
    assert found.top1 < found.top5 < 1


@pytest.mark.parametrize("k", [2, 3, 5])
def test_five_classes_or_fewer_are_all_in_the_top_5(k: int) -> None:
    logits, labels = random_scores(20, k)
    assert Accuracy.measure(logits, labels, names(k)).top5_correct == 20


def test_confusion_counts_labels_in_rows_and_predictions_in_columns() -> None:
    cells = confusion_cells(torch.tensor([1, 1, 2, 0]), torch.tensor([0, 0, 2, 2]))
    assert cells == ((0, 1, 2), (2, 0, 1), (2, 2, 1))
    assert whole_matrix(cells, 3) == [[0, 2, 0], [0, 0, 0], [1, 0, 1]]
    assert cells_of(whole_matrix(cells, 3)) == cells


def test_per_class_and_confusion_agree_with_the_totals() -> None:
    logits, labels = random_scores()
    found = Accuracy.measure(logits, labels, names(8))
    matrix = whole_matrix(found.confusion, 8)
    assert sum(map(sum, matrix)) == found.total == sum(c.total for c in found.per_class)
    assert sum(matrix[k][k] for k in range(8)) == found.correct == sum(c.correct for c in found.per_class)
    assert [sum(row) for row in matrix] == [c.total for c in found.per_class] == labels.bincount().tolist()
    assert [c.name for c in found.per_class] == list(names(8))


def test_a_class_without_images_has_rate_zero() -> None:
    found = Accuracy.measure(torch.eye(3)[[0, 0]], torch.tensor([0, 0]), names(3))
    assert [(c.correct, c.total, c.rate) for c in found.per_class] == [(2, 2, 1.0), (0, 0, 0.0), (0, 0, 0.0)]


@pytest.mark.parametrize("cells", [((0, 0, 1),), ((0, 0, 2), (0, 3, 1)), ((0, -1, 3),), ((1, 0, 2), (0, 0, 1)), ((0, 0, 1), (0, 0, 2))])
def test_a_confusion_matrix_that_does_not_count_each_image_once_is_refused(cells: tuple[tuple[int, int, int], ...]) -> None:
    found = Accuracy.measure(*random_scores(3, 3), names(3)).to_json()
    with pytest.raises(ConfigError, match="does not count each image once"):
        Accuracy.parse({**found, "confusion": cells})


def test_accuracy_does_not_depend_on_the_order_of_the_images() -> None:
    logits, labels = random_scores()
    order = torch.randperm(200)
    assert Accuracy.measure(logits[order], labels[order], names(8)) == Accuracy.measure(logits, labels, names(8))


def test_agreement_equals_a_slow_reference() -> None:
    teacher, student = random_scores()[0], random_scores()[0].roll(1, 0)
    found = Agreement.measure(teacher, student)
    agreed = sum(t.index(max(t)) == s.index(max(s)) for t, s in zip(teacher.tolist(), student.tolist(), strict=True))
    assert (found.agreed, found.total, found.rate) == (agreed, 200, agreed / 200)
    assert found.kl == pytest.approx(slow_kl(teacher, student), rel=1e-9)


def test_kl_goes_from_teacher_to_student() -> None:
    teacher, student = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])  # p = 1/2 1/2, q = 1/4 3/4
    assert Agreement.measure(teacher, student).kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)
    assert Agreement.measure(student, teacher).kl == pytest.approx(0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), abs=1e-7)


def test_a_model_agrees_with_itself() -> None:
    logits = random_scores()[0]
    assert Agreement.measure(logits, logits) == Agreement(agreed=200, total=200, rate=1.0, kl=0.0)


def test_kl_stays_finite_for_extreme_logits() -> None:
    found = Agreement.measure(torch.tensor([[3e4, -3e4]]), torch.tensor([[-3e4, 3e4]]))
    assert found.kl == pytest.approx(6e4)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_ece_equals_a_slow_reference(bins: int) -> None:
    logits, labels = random_scores()
    assert Calibration.measure(logits, labels, bins).ece == pytest.approx(slow_ece(logits, labels, bins), rel=1e-9)


def test_ece_by_hand() -> None:
    confidences = torch.tensor([0.9, 0.9, 0.6, 0.6], dtype=torch.float64)
    logits = torch.stack([confidences.log(), (1 - confidences).log()], 1)
    found = Calibration.measure(logits, torch.tensor([0, 1, 0, 0]), 15)
    # bin of 0.9: half right, |0.5 - 0.9| = 0.4; bin of 0.6: all right, |1 - 0.6| = 0.4; each holds half of the images
    assert found.ece == pytest.approx(0.4, abs=1e-12)
    filled = [b for b in found.bins if b.count]
    assert [(b.count, b.accuracy) for b in filled] == [(2, 1.0), (2, 0.5)]
    assert [b.confidence for b in filled] == pytest.approx([0.6, 0.9])
    assert all(b.lower < b.confidence <= b.upper + 1e-12 for b in filled)


def test_bins_cover_all_images_and_the_whole_range() -> None:
    bins = Calibration.measure(*random_scores(), 15).bins
    assert len(bins) == 15
    assert sum(b.count for b in bins) == 200
    assert (bins[0].lower, bins[-1].upper) == (0.0, 1.0)
    assert all(a.upper == b.lower for a, b in zip(bins, bins[1:], strict=False))


def test_full_confidence_lies_in_the_last_bin() -> None:
    found = Calibration.measure(torch.tensor([[1e4, -1e4]]), torch.tensor([0]), 15)
    assert found.bins[-1].count == 1
    assert found.ece == 0.0
