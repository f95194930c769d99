"""Every loss against a slow plain formula in float64, and the constants that can be worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distillery.losses.adversarial import clamped_divergence, decision_adversarial, jensen_shannon
from distillery.losses.distillation import kd_loss, kl_per_sample
from distillery.losses.moments import LayerMoments, batch_moments, blend, moment_distance
from distillery.losses.priors import mean_norm, squared_norm, total_variation_l1, total_variation_l2


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def slow_softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow_kl(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    q, p = slow_softmax(student, temperature), slow_softmax(teacher, temperature)
    return sum(p_k * math.log(p_k / q_k) for p_k, q_k in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kd_is_the_mean_over_samples_times_the_squared_temperature(temperature: float) -> None:
    student, teacher = draw(7, 5), draw(7, 5) * 3
    expected = sum(slow_kl(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)) / 7 * temperature**2
    torch.testing.assert_close(kd_loss(student, teacher, temperature).item(), expected, rtol=1e-12, atol=1e-12)


def test_kd_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    assert kd_loss(torch.zeros(1, 2, dtype=torch.float64), teacher).item() == pytest.approx(0.130812, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_kd_of_equal_logits_is_zero(temperature: float) -> None:
    logits = draw(4, 6) * 50
    assert abs(kd_loss(logits, logits.clone(), temperature).item()) < 1e-12


def test_kd_stays_finite_at_extreme_logits() -> None:
    teacher = torch.tensor([[1e4, -1e4], [0.0, 0.0]])
    assert torch.isfinite(kl_per_sample(-teacher, teacher)).all()


def test_adversarial_counts_only_shared_decisions_and_divides_by_all() -> None:
    student, teacher = draw(16, 4), draw(16, 4)
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    shared = [(s, t) for s, t in rows if s.index(max(s)) == t.index(max(t))]
    assert 0 < len(shared) < 16
    expected = -sum(slow_kl(s, t) for s, t in shared) / 16
    torch.testing.assert_close(decision_adversarial(student, teacher).item(), expected, rtol=1e-12, atol=1e-12)


def test_adversarial_is_zero_where_no_decision_is_shared() -> None:
    teacher = torch.eye(3, dtype=torch.float64) * 5
    student = teacher.roll(1, dims=1)
    assert decision_adversarial(student, teacher).item() == 0


def test_adversarial_gradient_is_that_of_the_masked_in_samples() -> None:
    student, teacher = draw(6, 3).requires_grad_(), draw(6, 3)
    decision_adversarial(student, teacher).backward()
    assert student.grad is not None
    for row, (s, t) in enumerate(zip(student.detach(), teacher, strict=True)):
        shared = int(s.argmax()) == int(t.argmax())
        expected = -(s.softmax(0) - t.softmax(0)) / 6 if shared else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(student.grad[row], expected)


def slow_moments(features: Tensor) -> tuple[list[float], list[float]]:
    means, variances = [], []
    for channel in range(features.shape[1]):
        values = features[:, channel].flatten().tolist()
        mean = sum(values) / len(values)
        means.append(mean)
        variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    return means, variances


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_are_the_mean_and_the_biased_variance(layout: torch.memory_format) -> None:
    features = (draw(3, 4, 5, 2) * 3 + 1).to(memory_format=layout)
    seen = batch_moments(features)
    means, variances = slow_moments(features)
    torch.testing.assert_close(seen.mean.tolist(), means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen.variance.tolist(), variances, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_moments_is_right(layout: torch.memory_format) -> None:
    features = draw(2, 3, 3, 2).to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (batch_moments(x).mean, batch_moments(x).variance), (features,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_full_precision_however_many_features_there_are(dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = (draw(64, 8, 32, 32) + 10).to(dtype).to(memory_format=layout)
    seen = batch_moments(features)
    variance, mean = torch.var_mean(features.double(), dim=(0, 2, 3), correction=0)
    assert seen.mean.dtype == seen.variance.dtype == torch.float32
    torch.testing.assert_close(seen.mean.double(), mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(seen.variance.double(), variance, rtol=1e-4, atol=0)


def test_moments_of_features_that_lie_apart_in_memory() -> None:
    features = draw(4, 3, 6, 5).transpose(2, 3)[:, :, ::2]
    torch.testing.assert_close(batch_moments(features).variance.tolist(), slow_moments(features)[1], rtol=1e-12, atol=1e-12)


def test_one_feature_has_no_variance() -> None:
    assert batch_moments(draw(1, 3, 1, 1)).variance.tolist() == [0, 0, 0]


def test_moment_distance_sums_plain_norms_over_layers() -> None:
    batch = [LayerMoments(draw(3), draw(3).abs()), LayerMoments(draw(5), draw(5).abs())]
    target = [LayerMoments(draw(3), draw(3).abs()), LayerMoments(draw(5), draw(5).abs())]
    expected = 0.0
    for seen, wanted in zip(batch, target, strict=True):
        for ours, theirs in ((seen.mean, wanted.mean), (seen.variance, wanted.variance)):
            expected += math.sqrt(sum((a - b) ** 2 for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)))
    torch.testing.assert_close(moment_distance(batch, target).item(), expected, rtol=1e-12, atol=1e-12)


def test_moment_distance_of_a_shift_is_the_shift_times_the_root_of_the_channels() -> None:
    features = draw(8, 9, 4, 4)
    features = (features - features.mean((0, 2, 3), keepdim=True)) / features.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    target = [LayerMoments(torch.zeros(9, dtype=torch.float64), torch.ones(9, dtype=torch.float64))]
    assert moment_distance([batch_moments(features)], target).item() == pytest.approx(0.0, abs=1e-12)
    assert moment_distance([batch_moments(features + 0.7)], target).item() == pytest.approx(0.7 * 3)


def test_moment_distance_has_a_finite_gradient_where_it_is_zero() -> None:
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    same = LayerMoments(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    moment_distance([LayerMoments(mean, torch.ones(3, dtype=torch.float64))], [same]).backward()
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()


def test_the_running_average_by_hand() -> None:
    batch = LayerMoments(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    past = LayerMoments(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    blended = blend(batch, past, 0.9)
    assert abs(1 - blended.mean.item()) == pytest.approx(0.1)
    assert blended.variance.item() == pytest.approx(0.9)


def test_the_gradient_through_the_running_average_is_scaled() -> None:
    mean = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    past = LayerMoments(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    blend(LayerMoments(mean, torch.ones(1, dtype=torch.float64)), past, 0.9).mean.backward()
    assert mean.grad is not None
    assert mean.grad.item() == pytest.approx(0.1)


DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def slow_differences(images: Tensor, down: int, right: int) -> list[float]:
    height, width = images.shape[2:]
    return [
        float(image[c, y + down, x + right] - image[c, y, x])
        for image in images
        for c in range(images.shape[1])
        for y in range(height - down)
        for x in range(width)
        if 0 <= x + right < width
    ]


def test_total_variation_l2() -> None:
    images = draw(2, 3, 4, 5)
    expected = sum(math.sqrt(sum(value**2 for value in slow_differences(images, *step))) for step in DIRECTIONS)
    torch.testing.assert_close(total_variation_l2(images).item(), expected, rtol=1e-12, atol=1e-12)


def test_priors_of_flat_images_are_zero() -> None:
    flat = torch.full((2, 3, 4, 4), 0.3, dtype=torch.float64)
    assert total_variation_l2(flat).item() == 0


def test_squared_norm_is_the_mean_over_images() -> None:
    images = draw(3, 2, 4, 5)
    expected = sum(sum(value**2 for value in image.flatten().tolist()) for image in images) / 3
    torch.testing.assert_close(squared_norm(images).item(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 3, 10])
@pytest.mark.parametrize("prior", [total_variation_l2, squared_norm])
def test_a_prior_of_groups_and_its_gradient_are_those_of_a_loop_over_groups(
    prior: Callable[..., Tensor], groups: int, layout: torch.memory_format
) -> None:
    scale = torch.arange(1, groups + 1, dtype=torch.float64).repeat_interleave(2).view(-1, 1, 1, 1)
    images = draw(groups * 2, 3, 4, 5) * scale
    images[:2] = 0.3  # a group without any difference
    together, apart = images.clone().to(memory_format=layout).requires_grad_(), images.clone().requires_grad_()
    ours, expected = prior(together, groups), torch.stack([prior(part) for part in apart.chunk(groups)]).sum()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(ours, together)[0], torch.autograd.grad(expected, apart)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", [total_variation_l2, squared_norm])
def test_groups_of_a_prior_that_do_not_divide_the_batch_are_a_mistake(prior: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError, match="7 images are no 3 groups"):
        prior(draw(7, 3, 4, 5), 3)


def test_distillation_of_dense_answers_is_the_mean_over_images_and_pixels() -> None:
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5)
    pixels = [kd_loss(student[i, :, y, x][None], teacher[i, :, y, x][None], 2.0) for i in range(2) for y in range(4) for x in range(5)]
    torch.testing.assert_close(kd_loss(student, teacher, 2.0), torch.stack(pixels).mean(), rtol=1e-12, atol=1e-12)


def slow_divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    p, q = slow_softmax(student, temperature), slow_softmax(teacher, temperature)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2


def slow_clamped_divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    p, q = slow_softmax(student, temperature), slow_softmax(teacher, temperature)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    p, q, m = ([min(max(value, 0.01), 0.99) for value in part] for part in (p, q, m))
    return sum(c * math.log(c / a) + c * math.log(c / b) for a, b, c in zip(p, q, m, strict=True)) / 2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("ours", "slow"), [(jensen_shannon, slow_divergence), (clamped_divergence, slow_clamped_divergence)])
def test_a_divergence_is_the_mean_over_samples(ours: Callable[..., Tensor], slow: Callable[..., float], temperature: float) -> None:
    student, teacher = draw(6, 5) * 8, draw(6, 5) * 8
    expected = sum(slow(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)) / 6
    assert ours(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)
    assert ours(teacher, student, temperature).item() == pytest.approx(expected, rel=1e-12)
    assert abs(ours(student, student.clone(), temperature).item()) < 1e-12


def test_the_divergence_ends_at_ln_2_and_stays_finite() -> None:
    apart = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.float64).requires_grad_()
    found = jensen_shannon(apart, apart.detach().flip(0), 1.0)
    assert found.item() == pytest.approx(math.log(2), rel=1e-12)
    found.backward()
    assert torch.isfinite(apart.grad).all()  # type: ignore[arg-type]


def test_the_clamp_hides_what_many_classes_disagree_on() -> None:
    student, teacher = draw(2, 1000), draw(2, 1000)
    assert jensen_shannon(student, teacher, 1.0).item() > 0.1
    assert clamped_divergence(student, teacher, 1.0).item() < 0.1


@pytest.mark.parametrize("groups", [1, 3])
def test_the_other_priors_are_means_of_absolute_differences_and_of_norms(groups: int) -> None:
    images = draw(6, 2, 4, 5)
    variation = norm = 0.0
    for group in images.chunk(groups):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            apart = [
                abs(float(image[c, y + down, x + right] - image[c, y, x]))
                for image in group
                for c in range(2)
                for y in range(4 - down)
                for x in range(5)
                if 0 <= x + right < 5
            ]
            variation += sum(apart) / len(apart)
        norm += sum(math.sqrt(sum(float(value) ** 2 for value in image.flatten())) for image in group) / len(group)
    assert total_variation_l1(images, groups).item() == pytest.approx(variation, rel=1e-12)
    assert mean_norm(images, groups).item() == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("shape", "variation"), [((4, 1, 1, 3), 1.5), ((4, 1, 3, 1), 1.5), ((4, 1, 1, 1), 0.0)])
def test_pixels_without_neighbours_in_a_direction_add_nothing(groups: int, shape: tuple[int, ...], variation: float) -> None:
    images = torch.tensor([0.0, 1.0, 3.0])[: shape[2] * shape[3]].double().expand(4, -1).reshape(shape)
    assert total_variation_l1(images, groups).item() == groups * variation
    assert math.isfinite(total_variation_l2(images, groups).item())


def test_a_factor_weighs_the_first_layer_alone() -> None:
    batch = [LayerMoments(draw(3), draw(3)), LayerMoments(draw(4), draw(4))]
    target = [LayerMoments(draw(3), draw(3)), LayerMoments(draw(4), draw(4))]
    first, second = (moment_distance(batch[i : i + 1], target[i : i + 1]).item() for i in range(2))
    assert moment_distance(batch, target, 10.0).item() == pytest.approx(10 * first + second, rel=1e-12)
