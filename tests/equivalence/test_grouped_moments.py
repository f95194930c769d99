"""Moments of groups: G groups in one batch give what a loop over the groups gives, against a slow formula in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.losses.moments import LayerMoments, batch_moments, blend, moment_distance
from distillery.statistics.moments import Moments
from distillery.synthesis.matching import MomentMatcher
from equivalence.plain import moments_of, tiny_classifier

GROUPS = [1, 3, 10]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def folded(groups: int, size: int = 4, channels: int = 5, seed: int = 0) -> Tensor:
    """(G*B, C, 3, 2), each group of another mean and spread; one channel of every second group does not vary at all."""
    images = draw(groups, size, channels, 3, 2, seed=seed)
    images = images * (1 + torch.arange(groups).view(-1, 1, 1, 1, 1)) + 0.3 * torch.arange(groups).view(-1, 1, 1, 1, 1)
    images[1::2, :, 2] = 0.7
    return images.flatten(0, 1)


def slow_distance(group: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """||mean - mean_hat|| + ||var - var_hat|| of one group, written out with autograd's own operations; 0 has the gradient 0."""
    count = group.numel() // group.shape[1]
    values = [group[:, channel].reshape(-1) for channel in range(group.shape[1])]
    means = [value.sum() / count for value in values]
    variances = [((value - middle) ** 2).sum() / count for value, middle in zip(values, means, strict=True)]
    total = group.new_zeros(())
    for seen, wanted in ((means, mean), (variances, variance)):
        square = torch.stack([(a - b) ** 2 for a, b in zip(seen, wanted, strict=True)]).sum()
        total = total + (square.sqrt() if square.item() > 0 else 0 * square)
    return total


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("middle", [0.0, 10.0, 100.0])
def test_gradients_of_half_precision_are_the_right_ones_rounded_once(middle: float, groups: int) -> None:
    features = (draw(12, 5, 3, 7) + middle).to(torch.bfloat16).requires_grad_()
    exact = features.detach().double().requires_grad_()
    wanted = LayerMoments(torch.zeros(5), torch.ones(5))
    moment_distance([batch_moments(features, groups)], [wanted]).backward()
    torch.stack([slow_distance(group, wanted.mean.double(), wanted.variance.double()) for group in exact.chunk(groups)]).sum().backward()
    assert features.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=2**-8, atol=1e-4 * exact.grad.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("rows", [True, False], ids=["targets of groups", "one target"])
def test_the_distance_and_its_gradient_are_those_of_a_loop_over_groups(groups: int, rows: bool, layout: torch.memory_format) -> None:
    layers = [folded(groups, seed=1), folded(groups, size=2, channels=3, seed=2)]
    wanted = [
        LayerMoments(draw(groups, layer.shape[1], seed=3), draw(groups, layer.shape[1], seed=4).abs())
        if rows
        else LayerMoments(draw(layer.shape[1], seed=3), draw(layer.shape[1], seed=4).abs())
        for layer in layers
    ]
    slow = [layer.clone().requires_grad_() for layer in layers]
    expected = torch.stack(
        [
            slow_distance(group, *((value[g] if rows else value) for value in (target.mean, target.variance)))
            for layer, target in zip(slow, wanted, strict=True)
            for g, group in enumerate(layer.chunk(groups))
        ]
    ).sum()
    ours = [layer.clone().to(memory_format=layout).requires_grad_() for layer in layers]
    seen = moment_distance([batch_moments(layer, groups) for layer in ours], wanted)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)
    for got, right in zip(torch.autograd.grad(seen, ours), torch.autograd.grad(expected, slow), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-10, atol=1e-12)
        assert got.is_contiguous(memory_format=layout)


def test_groups_at_the_same_distance_add_up_and_do_not_share_one_norm() -> None:
    seen = LayerMoments(torch.full((4, 3), 1.0), torch.ones(4, 3))
    wanted = LayerMoments(torch.zeros(4, 3), torch.ones(4, 3))
    assert moment_distance([seen], [wanted]).item() == pytest.approx(4 * math.sqrt(3))  # one norm over all would give 2 * sqrt(3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_has_the_very_numbers_that_its_images_alone_have(dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = folded(3).to(dtype).to(memory_format=layout)
    seen = batch_moments(features, 3)
    assert seen.mean.shape == seen.variance.shape == (3, 5)
    for g, part in enumerate(features.chunk(3)):
        alone = batch_moments(part)
        assert torch.equal(seen.mean[g], alone.mean)
        assert torch.equal(seen.variance[g], alone.variance)


def test_one_group_keeps_the_shape_that_it_always_had() -> None:
    assert batch_moments(folded(1), 1).mean.shape == (5,)


def test_the_gradient_of_grouped_moments_is_right() -> None:
    features = draw(6, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (batch_moments(x, 3).mean, batch_moments(x, 3).variance), (features,))


def test_a_group_that_stands_on_its_target_has_no_gradient_and_spoils_none() -> None:
    mean = torch.tensor([[1.0, 2.0], [5.0, 2.0]], requires_grad=True)
    target = LayerMoments(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.ones(2, 2))
    moment_distance([LayerMoments(mean, torch.ones(2, 2))], [target]).backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_groups_that_do_not_divide_the_batch_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="7 images are no 3 groups"):
        batch_moments(draw(7, 2, 2, 2), 3)


def by_class(targets: Moments, classes: int) -> Moments:
    """Other targets for each class."""
    rows = torch.arange(1, classes + 1, dtype=torch.float64).unsqueeze(1)
    mean = {key: value * rows for key, value in targets.mean.items()}
    variance = {key: value * rows for key, value in targets.variance.items()}
    return Moments("per_class", mean, variance, targets.teacher_sha256, torch.ones(classes, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["global", "per_class"])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.usefixtures("float64")
def test_a_matcher_of_groups_is_one_matcher_a_group(groups: int, kind: str) -> None:
    teacher = tiny_classifier(width=4, seed=0).requires_grad_(False)
    targets = by_class(moments_of(teacher), 3) if kind == "per_class" else moments_of(teacher)
    labels = torch.arange(groups) % 3
    together = MomentMatcher(teacher, targets, momentum=0.9)
    alone = [MomentMatcher(teacher, targets, momentum=0.9) for _ in range(groups)]
    for step in range(3):
        images = torch.rand(groups * 4, 2, 8, 8, generator=torch.Generator().manual_seed(step)).requires_grad_()
        logits, seen = together.observe(images, groups)
        distance = together.distance(seen, labels)
        together.remember(seen)
        apart = images.detach().clone().requires_grad_()
        one_by_one = [matcher.observe(part) for matcher, part in zip(alone, apart.chunk(groups), strict=True)]
        distances = [m.distance(own, labels[g : g + 1]) for g, (m, (_, own)) in enumerate(zip(alone, one_by_one, strict=True))]
        for matcher, (_, own) in zip(alone, one_by_one, strict=True):
            matcher.remember(own)
        expected = torch.stack(distances).sum()
        torch.testing.assert_close(logits, torch.cat([part for part, _ in one_by_one]))
        torch.testing.assert_close(distance, expected)
        torch.testing.assert_close(torch.autograd.grad(distance, images), torch.autograd.grad(expected, apart))


@pytest.mark.usefixtures("float64")
def test_groups_of_classes_continue_from_their_state() -> None:
    teacher = tiny_classifier(width=4, seed=0).requires_grad_(False)
    targets = by_class(moments_of(teacher), 3)
    first, second = (MomentMatcher(teacher, targets, momentum=0.5) for _ in range(2))
    images, labels = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 1])
    first.remember(first.observe(images, 3)[1])
    second.load_state_dict(first.state_dict())
    seen = first.observe(images.flip(0), 3)[1]
    assert torch.equal(first.distance(seen, labels), second.distance(seen, labels))
    assert all(layer["mean"].shape == (3, 4) for layer in second.state_dict().values())


@pytest.mark.usefixtures("float64")
def test_the_targets_are_those_of_the_labels_and_of_nobody_else() -> None:
    teacher = tiny_classifier(width=4, seed=0).requires_grad_(False)
    targets = by_class(moments_of(teacher), 3)
    matcher = MomentMatcher(teacher, targets)
    seen = [LayerMoments(targets.mean[key][[2, 0]], targets.variance[key][[2, 0]]) for key in targets.mean]
    assert matcher.distance(seen, torch.tensor([2, 0])).item() == 0
    assert matcher.distance(seen, torch.tensor([0, 2])).item() > 0.1


def test_moments_of_classes_without_a_word_of_whose_are_refused() -> None:
    teacher = tiny_classifier(width=4, seed=0).requires_grad_(False)
    matcher = MomentMatcher(teacher, by_class(moments_of(teacher), 3))
    with pytest.raises(ConfigError, match="does not say which class each image is of"):
        matcher.distance(matcher.observe(torch.rand(4, 2, 8, 8))[1])


def test_the_running_average_of_groups_by_hand() -> None:
    batch = LayerMoments(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]]))
    past = LayerMoments(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))
    blended = blend(batch, past, 0.75)
    assert blended.mean.tolist() == [[0.75], [2.5]]
    assert blended.variance.tolist() == [[0.5], [1.0]]
