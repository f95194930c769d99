"""Which layers have moments: what a forward pass visits, however it is called, recognised by what it keeps."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

import toy_networks
from distillery.errors import ConfigError
from distillery.losses.moments import LayerMoments, batch_moments, moment_distance
from distillery.statistics.extract import class_moments, global_moments
from distillery.statistics.layers import find_layers
from distillery.synthesis.matching import MomentMatcher
from distillery.types import Classifier, ImageSpec
from fakes import taps_left

SPEC = ImageSpec(channels=2, height=6, width=6, mean=(0.4, 0.6), std=(0.2, 0.3))
CLASSES = ("a", "b")


def classifier(network: nn.Module) -> Classifier:
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return Classifier(network, SPEC, CLASSES).freeze()


class Net(nn.Module):
    """A stem, one layer in the middle, and a head."""

    def __init__(self, norm: nn.Module, call: Callable[["Net", Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = norm
        self.extra = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(4, 2)
        self.call = call or (lambda net, value: net.norm(value))

    def forward(self, images: Tensor) -> Tensor:
        value = self.call(self, self.stem(images))
        if self.training:
            value = value + self.extra(value).mean()
        return self.head(value.relu().mean((2, 3)))


class Subclass(nn.BatchNorm2d):
    pass


class OwnNorm(nn.Module):
    """Keeps statistics without being a BatchNorm at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, value: Tensor) -> Tensor:
        return (value - self.running_mean[:, None, None]) * self.running_var[:, None, None].rsqrt()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, Subclass, OwnNorm])
def test_statistics_are_recognised_by_their_buffers(kind: type[nn.Module]) -> None:
    teacher = classifier(Net(kind(4)))
    assert find_layers(teacher).visits == ("network.norm",)  # the extra ones run in training only
    moments = global_moments(teacher, "")
    assert torch.equal(moments.mean["network.norm"], teacher.network.norm.running_mean)
    assert torch.equal(moments.variance["network.norm"], teacher.network.norm.running_var)
    images = torch.rand(3, *SPEC.shape)
    _, (seen,) = MomentMatcher(teacher, moments).observe(images)
    into = teacher.network.stem((images - teacher.mean) / teacher.std)
    torch.testing.assert_close(seen.mean, into.mean((0, 2, 3)))
    torch.testing.assert_close(seen.variance, into.var((0, 2, 3), correction=0))


class Halves(nn.Module):
    """Statistics that are no pair of vectors."""

    def __init__(self, mean: Tensor | None, variance: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", variance)

    def forward(self, value: Tensor) -> Tensor:
        return value


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.Identity(),
        Halves(torch.zeros(4), None),
        Halves(None, torch.ones(4)),
        Halves(torch.zeros(4), torch.ones(3)),
        Halves(torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)),
        Halves(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)),
    ],
)
def test_what_keeps_no_statistics_is_no_layer(norm: nn.Module) -> None:
    network = Net(norm)
    network.extra = nn.Identity()
    layers = find_layers(Classifier(network, SPEC, CLASSES))
    assert layers.visits == ()
    assert layers.left_out == {}


WAYS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "keyword": lambda net, value: net.norm(input=value),
    "forward": lambda net, value: net.norm.forward(value),
    "checkpoint": lambda net, value: checkpoint(net.norm, value, use_reentrant=False),
    "condition": lambda net, value: net.norm(value) if value.shape[1] == 4 else value,
    "folded": lambda net, value: torch.cat(net.norm(torch.cat(value.chunk(2, 2))).chunk(2), 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_is_visited_however_it_is_called(way: str) -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), WAYS[way]))
    assert find_layers(teacher).visits == ("network.norm",)
    images = torch.rand(3, *SPEC.shape, requires_grad=True)
    matcher = MomentMatcher(teacher, global_moments(teacher, ""))
    (gradient,) = torch.autograd.grad(matcher.distance(matcher.observe(images)[1]), images)
    norm = teacher.network.norm
    into = teacher.network.stem((images - teacher.mean) / teacher.std)
    wanted = (into.mean((0, 2, 3)) - norm.running_mean).norm() + (into.var((0, 2, 3), correction=0) - norm.running_var).norm()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, images)[0], atol=1e-6, rtol=1e-4)


class Weighted(nn.BatchNorm2d):
    """Takes a second tensor, that callers may name first."""

    def forward(self, input: Tensor, weight: Tensor | None = None) -> Tensor:
        return super().forward(input)


def test_of_two_keywords_the_features_are_the_input() -> None:
    teacher = classifier(Net(Weighted(4), lambda net, value: net.norm(weight=torch.zeros(3), input=value)))
    assert find_layers(teacher).visits == ("network.norm",)


@pytest.mark.parametrize("wrap", [nn.ModuleList, lambda parts: nn.ModuleDict({str(i): part for i, part in enumerate(parts)})])
def test_layers_in_containers_are_visited(wrap: Callable[[list[nn.Module]], nn.Module]) -> None:
    def each(net: Net, value: Tensor) -> Tensor:
        for part in net.norm.values() if isinstance(net.norm, nn.ModuleDict) else net.norm:
            value = part(value)
        return value

    teacher = classifier(Net(wrap([nn.BatchNorm2d(4), nn.BatchNorm2d(4)]), each))
    assert find_layers(teacher).visits == ("network.norm.0", "network.norm.1")


def twice(net: Net, value: Tensor) -> Tensor:
    return net.norm(net.norm(value).relu() + 1)


def test_each_visit_of_a_shared_layer_is_one() -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), twice))
    keys = ("network.norm", "network.norm..2")
    assert find_layers(teacher).visits == keys
    moments = global_moments(teacher, "")
    assert tuple(moments.mean) == keys
    assert torch.equal(moments.mean[keys[0]], moments.mean[keys[1]])
    images = torch.rand(5, *SPEC.shape)
    norm = teacher.network.norm
    first = teacher.network.stem((images - teacher.mean) / teacher.std)
    second = norm(first).relu() + 1
    _, batch = MomentMatcher(teacher, moments).observe(images)
    for seen, value in zip(batch, (first, second), strict=True):
        torch.testing.assert_close(seen.mean, value.mean((0, 2, 3)))
    target = LayerMoments(norm.running_mean, norm.running_var)
    wanted = moment_distance([batch_moments(first), batch_moments(second)], [target, target])
    torch.testing.assert_close(MomentMatcher(teacher, moments).distance(batch), wanted)


def test_moments_of_classes_are_those_of_each_visit() -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), twice))
    images, labels = torch.randint(256, (6, *SPEC.shape), dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])
    moments = class_moments(teacher, images, labels, "", batch=4)
    first = teacher.network.stem((images.float() / 255 - teacher.mean) / teacher.std)
    second = teacher.network.norm(first).relu() + 1
    for key, value in zip(("network.norm", "network.norm..2"), (first, second), strict=True):
        torch.testing.assert_close(moments.mean[key], torch.stack([value[:3].mean((0, 2, 3)), value[3:].mean((0, 2, 3))]))


def test_a_layer_of_two_names_counts_by_its_visits() -> None:
    network = Net(nn.BatchNorm2d(4))
    network.alias = network.norm
    assert find_layers(classifier(network)).visits == ("network.norm",)


def test_a_name_with_a_dot_is_found() -> None:
    network = Net(nn.Identity(), lambda net, value: net._modules["a.b"](value))
    network._modules["a.b"] = nn.BatchNorm2d(4)  # what `add_module` refuses and some converters do
    teacher = classifier(network)
    assert torch.equal(global_moments(teacher, "").mean["network.a.b"], network._modules["a.b"].running_mean)


def functional_norm(net: Net, value: Tensor) -> Tensor:
    norm = net.norm
    return functional.batch_norm(value, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():  # torch is giving scripts up, users have not
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        found: nn.Module = torch.jit.script(module)
    return found


HIDDEN: dict[str, tuple[Callable[[], Net], str, str]] = {
    "functional": (lambda: Net(nn.BatchNorm2d(4), functional_norm), "norm", "its statistics are used without calling it"),
    "class": (lambda: Net(nn.BatchNorm2d(4), lambda net, value: nn.BatchNorm2d.forward(net.norm, value)), "norm", "without calling it"),
    "bound": (lambda: Net(nn.BatchNorm2d(4), keep_forward()), "norm", "without calling it"),
    "vectors": (
        lambda: Net(nn.BatchNorm1d(4), lambda net, value: net.norm(value.mean((2, 3)))[:, :, None, None]),
        "norm",
        r"not \(N, C, H",
    ),
    "sequences": (lambda: Net(nn.BatchNorm1d(4), lambda net, value: net.norm(value.flatten(2))[..., None]), "norm", r"not \(N, C, H, W\)"),
    "volumes": (lambda: Net(nn.BatchNorm3d(4), lambda net, value: net.norm(value[:, :, None])[:, :, 0]), "norm", r"not \(N, C, H, W\)"),
    "channels_last": (lambda: Net(OwnNorm(4), lambda net, value: last(net.norm, value)), "norm", "one statistic a channel"),
    "instances": (lambda: Net(nn.InstanceNorm2d(4, track_running_stats=True)), "norm", "one image at a time"),
    "overwritten": (lambda: Net(OwnNorm(4), lambda net, value: net.norm(value) + value.relu_()), "norm", "overwritten in place"),
    "empty": (lambda: Net(nn.BatchNorm2d(4), routed), "norm", "its input is empty"),
    "inference": (lambda: Net(nn.BatchNorm2d(4), in_inference), "norm", "no gradient"),
    "no_grad": (lambda: Net(nn.BatchNorm2d(4), lambda net, value: net.norm(value.detach())), "norm", "no gradient"),
    "reentrant": (
        lambda: Net(nn.BatchNorm2d(4), lambda net, value: checkpoint(lambda it: net.norm(it + 1), value, use_reentrant=True)),
        "norm",
        "no gradient",
    ),
}


def keep_forward() -> Callable[[Net, Tensor], Tensor]:
    kept: list[Callable[[Tensor], Tensor]] = []

    def call(net: Net, value: Tensor) -> Tensor:
        if not kept:
            kept.append(nn.BatchNorm2d.forward.__get__(net.norm))
        return kept[0](value)

    return call


def routed(net: Net, value: Tensor) -> Tensor:
    """Only very bright images go through the norm."""
    bright = value.mean((1, 2, 3)) > 20
    return value.index_put((bright,), net.norm(value[bright]))


@torch.inference_mode()
def in_inference(net: Net, value: Tensor) -> Tensor:
    return net.norm(value * 2)


def last(norm: nn.Module, value: Tensor) -> Tensor:
    return norm(value.permute(0, 2, 3, 1)[..., None, None])[..., 0, 0].permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_cannot_be_matched_is_left_out_by_name(name: str) -> None:
    build, path, reason = HIDDEN[name]
    teacher = classifier(build())
    before = copy.deepcopy(teacher.state_dict())
    layers = find_layers(teacher)
    assert layers.visits == ()
    assert list(layers.left_out) == [f"network.{path}"]
    with pytest.raises(ConfigError, match=rf"^The teacher has no BatchNorm2d layer with .*left out: network.{path}, .*{reason}.*[.]$"):
        global_moments(teacher, "")
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_scripted_parts_are_left_out_by_name_and_the_others_matched() -> None:
    network = Net(nn.BatchNorm2d(4))
    network.call = lambda net, value: net.script(net.norm(value))
    network.script = scripted(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).eval())
    teacher = classifier(network)
    layers = find_layers(teacher)
    assert layers.visits == ("network.norm",)
    assert layers.exceptions() == " (left out: network.script.0, its statistics are used without calling it)"
    assert len(MomentMatcher(teacher, global_moments(teacher, "")).observe(torch.rand(2, *SPEC.shape))[1]) == 1


def test_a_scripted_layer_that_is_called_from_outside_is_visited() -> None:
    teacher = classifier(Net(scripted(nn.BatchNorm2d(4).eval())))
    own = teacher.network.norm.__dict__.get("forward")
    assert find_layers(teacher).visits == ("network.norm",)
    assert teacher.network.norm.__dict__.get("forward") is own


def test_an_idle_layer_of_the_same_buffers_is_no_exception() -> None:
    network = Net(nn.BatchNorm2d(4))
    network.extra[0].running_mean = network.norm.running_mean
    assert find_layers(classifier(network)).left_out == {}


def test_the_probe_leaves_everything_as_it_was() -> None:
    teacher = Classifier(Net(nn.BatchNorm2d(4), functional_norm), SPEC, CLASSES).train()
    teacher.network.extra.eval()
    teacher.network.head.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in teacher.parameters()]
    modes = [module.training for module in teacher.modules()]
    before, stream = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    find_layers(teacher)
    assert [parameter.requires_grad for parameter in teacher.parameters()] == flags
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert taps_left(teacher) == 0


def test_a_network_that_fails_is_one_sentence() -> None:
    network = Net(nn.BatchNorm2d(4), lambda net, value: value.view(3, 5))
    with pytest.raises(ConfigError, match=r"^Net fails on images of 2x6x6 \(RuntimeError: .*[.]$"):
        find_layers(Classifier(network, SPEC, CLASSES))
    network.call = lambda net, value: value
    network.head = nn.LSTM(4, 2)
    with pytest.raises(ConfigError, match=r"^The network gives a tuple and no logits .*[.]$"):
        find_layers(Classifier(network, SPEC, CLASSES))


def by_brightness(net: Net, value: Tensor) -> Tensor:
    return net.norm(net.norm(value)) if bool(value.abs().mean() > 5) else net.norm(value)


def test_a_path_that_depends_on_the_images_is_one_sentence() -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), by_brightness))
    matcher = MomentMatcher(teacher, global_moments(teacher, ""))
    matcher.observe(torch.rand(2, *SPEC.shape))
    with pytest.raises(ConfigError, match=r"^The teacher visits 'network.norm[.][.]2' beyond what its moments are of: .*[.]$"):
        matcher.observe(100 * torch.rand(2, *SPEC.shape))
    twice_seen = classifier(Net(nn.BatchNorm2d(4), twice))
    stale = MomentMatcher(teacher, global_moments(twice_seen, ""))
    with pytest.raises(ConfigError, match=r"^The layer 'network.norm[.][.]2' was not visited .*[.]$"):
        stale.observe(torch.rand(2, *SPEC.shape))


def test_a_layer_that_no_image_goes_through_now_is_one_sentence() -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), lambda net, value: routed(net, value - 25) + 25))
    moments = global_moments(classifier(Net(nn.BatchNorm2d(4))), "")
    with pytest.raises(ConfigError, match=r"^The layer 'network.norm' had no input that can be read .*[.]$"):
        MomentMatcher(teacher, moments).observe(torch.rand(2, *SPEC.shape))


def test_maps_of_no_single_image_have_no_class() -> None:
    teacher = classifier(Net(nn.BatchNorm2d(4), WAYS["folded"]))
    images, labels = torch.randint(256, (6, *SPEC.shape), dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ConfigError, match=r"^The layer 'network.norm' sees 12 maps of 6 images, .*[.]$"):
        class_moments(teacher, images, labels, "")


def test_auxiliary_heads_of_googlenet_are_no_layers() -> None:
    from torchvision.models import googlenet

    with torch.device("cpu"):
        network = googlenet(weights=None, num_classes=2, init_weights=False, aux_logits=True)
    spec = ImageSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    teacher = Classifier(network, spec, CLASSES).freeze()
    moments = global_moments(teacher, "")
    declared = [path for path, module in teacher.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert list(moments.mean) == [path for path in declared if "aux" not in path]
    assert len(declared) - len(moments.mean) == 2
    _, batch = MomentMatcher(teacher, moments).observe(torch.rand(2, *spec.shape))
    assert len(batch) == len(moments.mean)


def test_a_network_that_autograd_refuses_is_looked_at_without_gradients() -> None:
    spec = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = find_layers(Classifier(toy_networks.ThroughNumpy(), spec, ("a", "b", "c")))
    assert found.visits == ()
    assert found.left_out == {"network.norm": "no gradient flows from its input to the images"}
