import copy

import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.statistics.extract import RunningMoments, class_moments, global_moments
from distillery.types import Classifier, ImageSpec
from fakes import taps_left

SPEC = ImageSpec(channels=2, height=6, width=5, mean=(0.4, 0.6), std=(0.2, 0.3))
PATHS = ["network.1", "network.4"]


def make_classifier(classes: int = 3, norm: bool = True) -> Classifier:
    """Two BatchNorm layers with statistics that are not the defaults."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.BatchNorm2d(5)]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn_like(layer.running_mean)
            layer.running_var = torch.rand_like(layer.running_var) + 0.5
    kept = [layer for layer in layers if norm or not isinstance(layer, nn.BatchNorm2d)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, classes)]
    return Classifier(nn.Sequential(*kept, *head), SPEC, tuple(f"class {i}" for i in range(classes)))


def make_data(n: int = 37, classes: int = 3) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (n, 2, 6, 5), generator=stream, dtype=torch.uint8)
    return images, torch.randint(0, classes, (n,), generator=stream)


def slow_layer_inputs(classifier: Classifier, images: Tensor) -> dict[str, Tensor]:
    """The inputs of both BatchNorm layers in float64, layer by layer, without taps."""
    net = copy.deepcopy(classifier.network).double().eval()
    pixels = images.double() / 255
    x = (pixels - torch.tensor(SPEC.mean).double().view(1, 2, 1, 1)) / torch.tensor(SPEC.std).double().view(1, 2, 1, 1)
    first = net[0](x)
    second = net[3](net[2](net[1](first)))
    return {"network.1": first, "network.4": second}


def slow_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel, the textbook way."""
    columns = [values[:, c].reshape(-1).tolist() for c in range(values.shape[1])]
    mean = [sum(column) / len(column) for column in columns]
    variance = [sum((x - m) ** 2 for x in column) / (len(column) - 1) for column, m in zip(columns, mean, strict=True)]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)


def hooks_left(classifier: Classifier) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in classifier.modules()) + taps_left(classifier)


def test_global_moments_are_the_buffers_and_not_views_of_them() -> None:
    classifier = make_classifier()
    moments = global_moments(classifier, "abc")
    assert moments.kind == "global"
    assert moments.teacher_sha256 == "abc"
    assert moments.counts is None
    assert list(moments.mean) == list(moments.variance) == PATHS
    layer = classifier.network[4]
    assert torch.equal(moments.mean["network.4"], layer.running_mean)
    assert torch.equal(moments.variance["network.4"], layer.running_var)
    layer.running_var.zero_()
    assert moments.variance["network.4"].min() > 0


def test_global_moments_are_what_batchnorm_accumulates() -> None:
    layer = nn.BatchNorm2d(2, momentum=None).double()
    images = torch.rand(4, 2, 6, 5, dtype=torch.float64)
    layer(images)
    moments = global_moments(Classifier(nn.Sequential(layer), SPEC, ("a", "b")).double(), "abc")
    mean, variance = slow_moments(images)
    torch.testing.assert_close(moments.mean["network.0"], mean)
    torch.testing.assert_close(moments.variance["network.0"], variance)


@pytest.mark.parametrize("measure", [lambda c: global_moments(c, ""), lambda c: class_moments(c, *make_data(), "")])
def test_a_teacher_without_batchnorm_is_refused(measure) -> None:
    with pytest.raises(ConfigError, match="no BatchNorm2d layer"):
        measure(make_classifier(norm=False))


def test_class_moments_equal_a_slow_float64_reference() -> None:
    classifier, (images, labels) = make_classifier(), make_data()
    moments = class_moments(classifier, images, labels, "abc", batch=8)
    inputs = slow_layer_inputs(classifier, images)
    assert moments.kind == "per_class"
    assert moments.counts.tolist() == [int((labels == k).sum()) for k in range(3)]
    for path in PATHS:
        for k in range(3):
            mean, variance = slow_moments(inputs[path][labels == k])
            torch.testing.assert_close(moments.mean[path][k].double(), mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(moments.variance[path][k].double(), variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 5, 37, 1000])
def test_class_moments_do_not_depend_on_the_batch_size(batch: int) -> None:
    classifier, (images, labels) = make_classifier(), make_data()
    wanted = class_moments(classifier, images, labels, "", batch=16)
    found = class_moments(classifier, images, labels, "", batch=batch)
    for path in PATHS:
        torch.testing.assert_close(found.mean[path], wanted.mean[path], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.variance[path], wanted.variance[path], rtol=1e-5, atol=1e-6)


def test_class_moments_do_not_depend_on_the_order_of_the_images() -> None:
    classifier, (images, labels) = make_classifier(), make_data()
    order = torch.randperm(len(images))
    wanted = class_moments(classifier, images, labels, "", batch=8)
    found = class_moments(classifier, images[order], labels[order], "", batch=8)
    torch.testing.assert_close(found.variance, wanted.variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_no_hook_mode_or_buffer_behind(training: bool) -> None:
    classifier, (images, labels) = make_classifier().train(training), make_data()
    classifier.network[1].eval()
    state = copy.deepcopy(classifier.state_dict())
    class_moments(classifier, images, labels, "")
    assert hooks_left(classifier) == 0
    assert classifier.training is classifier.network[4].training is training
    assert classifier.network[1].training is False
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())


class OfTwo(nn.Module):
    """Fails on more than two images."""

    def forward(self, values: Tensor) -> Tensor:
        return values.view(2, 3)


def test_an_error_leaves_no_hook_or_mode_behind() -> None:
    classifier, (images, labels) = make_classifier().train(), make_data()
    classifier.network.append(OfTwo().train())
    with pytest.raises(ConfigError, match="fails on images"):
        class_moments(classifier, images, labels, "")
    assert hooks_left(classifier) == 0
    assert classifier.training
    assert classifier.network[1].training


def test_class_moments_use_eval_mode() -> None:
    classifier, (images, labels) = make_classifier(), make_data()
    in_train = class_moments(classifier.train(), images, labels, "")
    in_eval = class_moments(classifier.eval(), images, labels, "")
    assert torch.equal(in_train.mean["network.4"], in_eval.mean["network.4"])


def test_a_class_without_images_is_named() -> None:
    images, labels = make_data()
    with pytest.raises(ConfigError, match="No images of class class 1 were given"):
        class_moments(make_classifier(), images[labels != 1], labels[labels != 1], "")


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.zeros(0, 2, 6, 5, dtype=torch.uint8), torch.zeros(0, dtype=torch.long), "There are no images"),
        (torch.zeros(3, 1, 6, 5, dtype=torch.uint8), torch.tensor([0, 1, 2]), r"\(1, 6, 5\) do not fit"),
        (torch.zeros(3, 2, 6, 5), torch.tensor([0, 1, 2]), "torch.float32"),
        (torch.zeros(3, 2, 6, 5, dtype=torch.uint8), torch.tensor([0, 1]), "3 images of torch.uint8 with 2 labels"),
        (torch.zeros(3, 2, 6, 5, dtype=torch.uint8), torch.tensor([0, 1, 3]), "Labels go from 0 to 3, .* 0 to 2"),
        (torch.zeros(3, 2, 6, 5, dtype=torch.uint8), torch.tensor([-1, 1, 2]), "Labels go from -1 to 2"),
    ],
)
def test_data_that_does_not_fit_is_refused(images: Tensor, labels: Tensor, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        class_moments(make_classifier(), images, labels, "")


def test_one_image_of_a_class_with_1x1_maps_is_refused() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    classifier = Classifier(network, SPEC, ("a", "b"))
    images = torch.zeros(3, 2, 6, 5, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="at least 2 images"):
        class_moments(classifier, images, torch.tensor([0, 0, 1]), "")


def test_merged_groups_are_the_moments_of_all_values() -> None:
    values, groups = torch.randn(23, 3, 4, 2, dtype=torch.float64) + 5, torch.randint(0, 4, (23,))
    running = RunningMoments(5, 3)  # group 4 stays empty
    for start in range(0, 23, 6):
        running.update(values[start : start + 6], groups[start : start + 6])
    whole = running.merged()
    mean, variance = slow_moments(values)
    torch.testing.assert_close(whole.mean[0], mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.variance()[0], variance, rtol=1e-12, atol=0)
    assert whole.count.item() == 23 * 8
    assert running.variance()[4].isnan().all()


def test_a_batch_of_one_class_leaves_the_others_alone() -> None:
    running = RunningMoments(2, 3)
    first = torch.randn(5, 3, 2, 2)
    running.update(first, torch.zeros(5, dtype=torch.long))
    running.update(torch.randn(4, 3, 2, 2), torch.ones(4, dtype=torch.long))
    mean, variance = slow_moments(first.double())
    torch.testing.assert_close(running.mean[0], mean)
    torch.testing.assert_close(running.variance()[0], variance)


def test_constant_values_have_exactly_zero_variance() -> None:
    running = RunningMoments(1, 2)
    for _ in range(3):
        running.update(torch.full((4, 2, 3, 3), 1234.5), torch.zeros(4, dtype=torch.long))
    assert torch.equal(running.variance(), torch.zeros(1, 2, dtype=torch.float64))
    assert torch.equal(running.mean, torch.full((1, 2), 1234.5, dtype=torch.float64))


def test_a_mean_far_above_the_deviation_costs_no_digits() -> None:
    values = torch.randn(400, 1, 2, 2, dtype=torch.float64)
    running = RunningMoments(1, 1)
    for chunk in (values + 1e8).split(16):
        running.update(chunk, torch.zeros(len(chunk), dtype=torch.long))
    torch.testing.assert_close(running.variance()[0], slow_moments(values)[1], rtol=1e-6, atol=0)
