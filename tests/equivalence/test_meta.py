"""Meta-gradients on a quadratic whose answers are known in closed form."""

import pytest
import torch
from torch import Tensor

from distillery.optim.meta import add_gradients, reptile_gradient

TARGET, RATE = 3.0, 0.1


def adapt(start: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Plain gradient descent on 0.5 * (theta - a)^2, with the gradient of each step."""
    theta, gradients = start.clone(), []
    for _ in range(steps):
        gradients.append(theta - TARGET)
        theta = theta - RATE * gradients[-1]
    return theta, gradients


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_the_sum_of_all_steps(steps: int) -> None:
    start = torch.tensor([0.5], dtype=torch.float64)
    total = [torch.zeros(1, dtype=torch.float64)]
    for gradient in adapt(start, steps)[1]:
        add_gradients(total, [gradient])
    expected = (start - TARGET) * (1 - (1 - RATE) ** steps) / RATE
    torch.testing.assert_close(total[0], expected)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_reptile_points_from_the_adapted_parameters_to_the_start(steps: int) -> None:
    start = torch.tensor([0.5], dtype=torch.float64)
    adapted, _ = adapt(start, steps)
    expected = (start - TARGET) * (1 - (1 - RATE) ** steps)
    torch.testing.assert_close(reptile_gradient([start], [adapted])[0], expected)
    torch.testing.assert_close(reptile_gradient([start], [adapted], scale=67)[0], 67 * expected)


def test_descending_reptile_moves_towards_the_adapted_parameters() -> None:
    start = torch.tensor([0.5], dtype=torch.float64)
    adapted, _ = adapt(start, 5)
    moved = start - 0.1 * reptile_gradient([start], [adapted])[0]
    assert abs(moved - adapted) < abs(start - adapted)


def test_with_plain_descent_inside_the_sum_and_reptile_point_the_same_way() -> None:
    start = torch.tensor([0.5], dtype=torch.float64)
    adapted, gradients = adapt(start, 5)
    torch.testing.assert_close(reptile_gradient([start], [adapted])[0], RATE * torch.stack(gradients).sum(0))
