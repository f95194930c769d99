"""Losses on features against plain double loops in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from distillery.losses.features import attention_distance, attention_map, fsp_distance, fsp_matrix, hint_distance, pool_to
from distillery.seeding import stream
from distillery.students.fitnets import build_regressor


def drawn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=torch.float64)


def plain_pool(values: list[list[float]], height: int, width: int, how: str) -> list[list[float]]:
    """One channel, window by window, the windows as adaptive pooling lays them."""
    rows, columns = len(values), len(values[0])
    result = []
    for i in range(height):
        line = []
        for j in range(width):
            window = [
                values[y][x]
                for y in range(i * rows // height, -(-(i + 1) * rows // height))
                for x in range(j * columns // width, -(-(j + 1) * columns // width))
            ]
            line.append(max(window) if how == "max" else sum(window) / len(window))
        result.append(line)
    return result


def plain_matrix(start: Tensor, end: Tensor, how: str) -> list[list[float]]:
    """Of one image: (m, H, W) and (n, h, w)."""
    height, width = min(start.shape[1], end.shape[1]), min(start.shape[2], end.shape[2])
    first, second = ([plain_pool(channel.tolist(), height, width, how) for channel in part] for part in (start, end))
    matrix = [[0.0] * len(second) for _ in first]
    for a, b, i, j in itertools.product(range(len(first)), range(len(second)), range(height), range(width)):
        matrix[a][b] += first[a][i][j] * second[b][i][j] / (height * width)
    return matrix


@pytest.mark.parametrize("how", ["max", "average"])
@pytest.mark.parametrize("sizes", [((4, 4), (4, 4)), ((8, 6), (4, 3)), ((3, 3), (7, 5)), ((2, 6), (4, 3))])
def test_fsp_is_the_plain_loop_over_places_and_channels(sizes: tuple[tuple[int, int], tuple[int, int]], how: str) -> None:
    sides = [(drawn(3, 2, *sizes[0], name=f"{who} start"), drawn(3, 5, *sizes[1], name=f"{who} end")) for who in ("teacher", "student")]
    found = [fsp_matrix(start, end, how) for start, end in sides]
    plain = [[plain_matrix(one, other, how) for one, other in zip(start, end, strict=True)] for start, end in sides]
    for matrix, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)
    total = 0.0
    for x, a, b in itertools.product(range(3), range(2), range(5)):
        total += (plain[0][x][a][b] - plain[1][x][a][b]) ** 2 / 3
    assert fsp_distance(*found).item() == pytest.approx(total, rel=1e-12)
    assert fsp_distance(*found, "mean").item() == pytest.approx(total / 10, rel=1e-12)


def test_fsp_of_ones_and_twos() -> None:
    """Whatever the size: G is all ones, and doubling the second layer costs 1 an entry."""
    ones = fsp_matrix(torch.ones(2, 3, 5, 4), torch.ones(2, 4, 5, 4))
    twos = fsp_matrix(torch.ones(2, 3, 9, 7), 2 * torch.ones(2, 4, 9, 7))
    assert torch.equal(ones, torch.ones(2, 3, 4))
    assert fsp_distance(ones, twos, "mean") == 1
    assert fsp_distance(ones, twos) == 12


def plain_map(features: Tensor, height: int, width: int) -> list[float]:
    """Of one image: (C, H, W)."""
    channels, rows, columns = features.shape
    energy = [[sum(float(features[c, y, x]) ** 2 for c in range(channels)) / channels for x in range(columns)] for y in range(rows)]
    flat = [value for line in plain_pool(energy, height, width, "average") for value in line]
    norm = sum(value * value for value in flat) ** 0.5
    return [value / norm for value in flat]


@pytest.mark.parametrize("sizes", [((4, 4), (4, 4)), ((8, 6), (4, 3)), ((3, 3), (6, 9))])
def test_attention_is_the_plain_loop(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    teacher, student = drawn(3, 4, *sizes[0], name="teacher"), drawn(3, 2, *sizes[1], name="student")
    height, width = (min(pair) for pair in zip(*sizes, strict=True))
    total = 0.0
    for one, other in zip(teacher, student, strict=True):
        for a, b in zip(plain_map(one, height, width), plain_map(other, height, width), strict=True):
            total += (a - b) ** 2 / (3 * height * width)
    assert attention_distance(teacher, student).item() == pytest.approx(total, rel=1e-10)
    assert attention_distance(teacher, -3 * teacher).item() == pytest.approx(0, abs=1e-30), "neither sign nor size of activations counts"
    assert attention_map(torch.zeros(1, 2, 2, 2), (2, 2)).tolist() == [[0.0] * 4], "where nothing is active, nothing is divided by 0"


def plain_convolution(features: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """One image (C, H, W), place by place."""
    exits, entries, tall, wide = weight.shape
    padded = torch.zeros(entries, features.shape[1] + 2 * padding, features.shape[2] + 2 * padding, dtype=torch.float64)
    padded[:, padding : padding + features.shape[1], padding : padding + features.shape[2]] = features
    rows, columns = (padded.shape[1] - tall) // stride + 1, (padded.shape[2] - wide) // stride + 1
    result = torch.zeros(exits, rows, columns, dtype=torch.float64)
    for o, y, x in itertools.product(range(exits), range(rows), range(columns)):
        window = padded[:, y * stride : y * stride + tall, x * stride : x * stride + wide]
        result[o, y, x] = (window * weight[o]).sum() + bias[o]
    return result


def plain_transposed(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One image (C, H, W) through a transposed convolution of 4, stride 2, padding 1: every place adds its patch."""
    entries, exits = weight.shape[:2]
    rows, columns = features.shape[1:]
    whole = torch.zeros(exits, 2 * rows + 2, 2 * columns + 2, dtype=torch.float64)
    for c, o, y, x in itertools.product(range(entries), range(exits), range(rows), range(columns)):
        whole[o, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += features[c, y, x] * weight[c, o]
    return whole[:, 1:-1, 1:-1] + bias.view(-1, 1, 1)


@pytest.mark.parametrize(("student", "teacher"), [((8, 6), (4, 3)), ((3, 4), (6, 8)), ((5, 7), (5, 7)), ((7, 7), (4, 5)), ((9, 8), (3, 3))])
def test_a_hint_is_the_plain_regressor_and_mean_of_squares(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    regressor = build_regressor((2, *student), (3, *teacher)).double().requires_grad_(False)
    features, hint = drawn(4, 2, *student, name="student"), drawn(4, 3, *teacher, name="teacher")
    first, norm = regressor[0], regressor[1]
    if student == (3, 4):
        mapped = torch.stack([plain_transposed(image, first.weight, first.bias) for image in features])
    else:
        stride, padding = (2, 1) if student == (8, 6) else (1, 0)
        mapped = torch.stack([plain_convolution(image, first.weight, first.bias, stride, padding) for image in features])
    assert mapped.shape == hint.shape
    total = 0.0
    for channel in range(3):
        values = mapped[:, channel]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        seen = ((values - mean) / (variance + norm.eps) ** 0.5).clamp(min=0)
        total += float(((seen - hint[:, channel]) ** 2).sum()) / hint.numel()
    assert hint_distance(hint, regressor.train()(features)).item() == pytest.approx(total, rel=1e-10)


def test_maps_of_the_asked_size_are_left_alone() -> None:
    features = drawn(2, 3, 4, 5)
    assert pool_to(features, (4, 5), "max") is features
