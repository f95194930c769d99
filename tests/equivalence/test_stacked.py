"""A stack of generators against each of them alone, in float64: a plain loop that shares no network layout, loss or optimiser with it."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import Generator, build_generator
from distillery.models.generators.stacked import StackedGenerator, upsampling_kernel
from distillery.runtime import resolve_runtime
from distillery.seeding import seeded, stream
from distillery.statistics.moments import Moments
from distillery.synthesis import stacked
from distillery.synthesis.protocol import Ingredients
from distillery.synthesis.share import Share
from distillery.types import Classifier, ImageSpec
from equivalence.plain import SPEC, PlainAdam, cross_entropy, l2, norms_of, watched_forward

SEED, STEPS = 3, 20


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def teacher_of(num_classes: int) -> Classifier:
    """A frozen teacher with BatchNorm whose running statistics are not the defaults."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))
    classifier = Classifier(network, SPEC, tuple(f"c{k}" for k in range(num_classes))).train()
    with torch.no_grad():
        for _ in range(5):
            classifier(torch.rand(16, *SPEC.shape))
    return classifier.freeze()


def moments_of(teacher: Classifier, kind: str) -> Moments:
    """The running statistics; of classes, each further from them than the one before."""
    norms = norms_of(teacher)
    mean = {path: norm.running_mean.clone() for path, norm in norms.items()}  # type: ignore[union-attr]
    variance = {path: norm.running_var.clone() for path, norm in norms.items()}  # type: ignore[union-attr]
    if kind == "global":
        return Moments("global", mean, variance, "0" * 64)
    apart = torch.arange(teacher.num_classes)[:, None]
    rows = {path: value + 0.1 * apart for path, value in mean.items()}
    spread = {path: value * (1 + 0.05 * apart) for path, value in variance.items()}
    return Moments("per_class", rows, spread, "0" * 64, torch.full((teacher.num_classes,), 40))


def configure(**changes: Any) -> LSGDFDConfig:
    fields: dict[str, Any] = {
        "generator": {"name": "conditional", "latent": 5, "width": 3, "condition": "one_hot", "condition_scale": 1.5},
        "batch": 8,
        "steps_per_round": STEPS,
        "rate": 0.003,
        "total_variation_weight": 0.01,
        "l2_weight": 0.02,
        "jitter": 2,
    }
    return LSGDFDConfig.parse(fields | changes)


def build(config: LSGDFDConfig, teacher: Classifier, share: Share, diagnose: bool = False) -> LSGDFD:
    moments = moments_of(teacher, "global" if config.targets == "global" else "per_class")
    return LSGDFD(config, Ingredients(teacher, resolve_runtime("cpu", "float32"), SEED, moments, diagnose=diagnose, share=share))


def plain_total_variation(images: Tensor) -> Tensor:
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling, rising = images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]
    return l2(right) + l2(below) + l2(falling) + l2(rising)


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    size = images.shape[-1]
    turned = torch.stack([images[:, :, (row - down) % size] for row in range(size)], dim=2)
    return torch.stack([turned[..., (column - right) % size] for column in range(size)], dim=3)


def plain_labels(config: LSGDFDConfig, own: range, draws: torch.Generator, shown: int) -> Tensor:
    if config.targets == "global":
        return torch.randint(len(own), (config.batch,), generator=draws) + own.start
    order = torch.randperm(len(own), generator=draws)[:shown].tolist()
    return torch.tensor([own.start + number for number in order for _ in range(config.batch // shown)])


def plain_moments(teacher: Classifier, moments: Moments, view: Tensor, labels: Tensor, shown: int) -> Tensor:
    """The mean over the classes in a batch of the distance of each one's images from its targets."""
    total = torch.zeros(())
    for number in range(shown):
        part = slice(number * len(view) // shown, (number + 1) * len(view) // shown)
        for path, (mean, variance) in zip(moments.mean, watched_forward(teacher, view[part])[1], strict=True):
            row = () if moments.kind == "global" else int(labels[part][0])
            total = total + l2(mean - moments.mean[path][row]) + l2(variance - moments.variance[path][row])
    return total / shown


def learned_alone(config: LSGDFDConfig, teacher: Classifier, index: int, own: range, shown: int) -> Generator:
    """One generator of an ensemble, trained by itself as the paper writes it."""
    moments = moments_of(teacher, "global" if config.targets == "global" else "per_class")
    settings = config.generator.model_copy(update={"condition": "none"}) if len(own) == 1 else config.generator
    with seeded(SEED, "ls_gdfd", "init", index):
        generator = build_generator(settings, SPEC, len(own)).train()
    draws, weights = stream(SEED, "ls_gdfd", "learning", index), list(generator.parameters())
    adam = PlainAdam([config.rate] * len(weights))
    for _ in range(STEPS):
        labels = plain_labels(config, own, draws, shown)
        images = generator(torch.randn(config.batch, config.generator.latent, generator=draws), labels - own.start)
        down, right = torch.randint(-2, 3, (2,), generator=draws).tolist()
        view = shifted(images, down, right)
        loss = config.label_weight * cross_entropy(teacher(view), labels)
        loss = loss + config.total_variation_weight * plain_total_variation(images)
        loss = loss + config.l2_weight * sum((image * image).sum() for image in images) / len(images)
        loss = loss + config.moments_weight * plain_moments(teacher, moments, view, labels, shown)
        adam.step(weights, list(torch.autograd.grad(loss, weights)))
    return generator


CASES = [
    (Share(0, 1, 2), 6, {}),
    (Share(0, 3, 3), 7, {}),
    (Share(0, 10, 10), 10, {}),
    (Share(0, 10, 10), 13, {"generator": {"name": "generator", "latent": 5, "width": 3, "condition": "one_hot"}}),
    (Share(2, 5, 10), 10, {"targets": "class"}),
    (Share(0, 3, 3), 7, {"targets": "class", "images_per_class": 4}),
]


@pytest.mark.parametrize(
    ("share", "num_classes", "changes"), CASES, ids=["one of two", "3", "10", "uneven", "class moments", "two classes"]
)
def test_a_stack_learns_what_its_generators_learn_one_after_another(share: Share, num_classes: int, changes: dict[str, Any]) -> None:
    config, teacher = configure(**changes), teacher_of(num_classes)
    ours = build(config, teacher, share)
    ours.advance(None)
    shown = 2 if "images_per_class" in changes else 1
    learned_by_all = zip(range(share.first, share.last), share.classes(num_classes), ours.state_dict()["generators"], strict=True)
    for index, own, learned in learned_by_all:
        alone = learned_alone(config, teacher, index, own, shown).state_dict()
        assert alone.keys() == learned.keys()
        for name, value in alone.items():
            torch.testing.assert_close(learned[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_how_many_stand_in_one_network_changes_nothing_but_rounding(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config, teacher, share = configure(steps_per_round=5), teacher_of(7), Share(0, 4, 4)
    whole = build(config, teacher, share, diagnose=True)
    monkeypatch.setattr(stacked, "at_once", lambda *_: size)
    parted = build(config, teacher, share, diagnose=True)
    first, second = whole.advance(None), parted.advance(None)
    for name, value in first.terms.items():
        torch.testing.assert_close(second.terms[name], value)
        torch.testing.assert_close(second.gradient_norms[name], first.gradient_norms[name])
    assert first.batch is not None
    assert second.batch is not None
    torch.testing.assert_close(second.batch.images, first.batch.images)
    assert torch.equal(second.batch.labels, first.batch.labels)  # type: ignore[arg-type]
    parted.load_state_dict(through_disk(whole.state_dict()))
    whole.advance(None)
    parted.advance(None)
    for one, other in zip(whole.state_dict()["generators"], parted.state_dict()["generators"], strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value)


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_terms_are_told_as_the_mean_of_a_generator() -> None:
    config, teacher = configure(steps_per_round=1), teacher_of(6)
    together = build(config, teacher, Share(0, 3, 3), diagnose=True).advance(None)
    apart = [build(config, teacher, Share(g, g + 1, 3), diagnose=True).advance(None) for g in range(3)]
    for name, value in together.terms.items():
        torch.testing.assert_close(value, torch.stack([turn.terms[name] for turn in apart]).mean())
        norms = torch.stack([turn.gradient_norms[name] for turn in apart])
        torch.testing.assert_close(together.gradient_norms[name], norms.square().mean().sqrt())


def test_images_of_a_class_are_those_of_its_generator_alone() -> None:
    config, teacher = configure(batch=4, steps_per_round=2), teacher_of(7)
    ours = build(config, teacher, Share(0, 3, 3))
    ours.advance(None)
    labels, slices = torch.tensor([6, 0, 0, 3, 6, 4, 0, 0, 0, 2]), Share(0, 3, 3).classes(7)
    made = ours.synthesize(10, labels)
    for index, (own, learned) in enumerate(zip(slices, ours.state_dict()["generators"], strict=True)):
        alone = build_generator(config.generator, SPEC, len(own))
        alone.load_state_dict(copy.deepcopy(learned))
        mine = [place for place, label in enumerate(labels.tolist()) if label in own]
        draws = stream(SEED, "ls_gdfd", "sampling", index)
        latents = torch.cat([torch.randn(len(part), 5, generator=draws) for part in torch.tensor(mine).split(4)])
        with torch.no_grad():
            expected = alone.eval()(latents, labels[mine] - own.start)
        torch.testing.assert_close(made.images[mine].double(), expected)
    assert torch.equal(made.labels, labels)  # type: ignore[arg-type]


def test_a_share_makes_its_own_classes_alone() -> None:
    share = build(configure(), teacher_of(7), Share(1, 2, 3))
    assert set(share.synthesize(30).labels.tolist()) == {2, 3}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"labels range over 1\.\.3; generators 1 to 1 of 3 make classes 2\.\.3: ask the shares"):
        share.synthesize(2, torch.tensor([1, 3]))


def test_a_share_takes_no_state_of_another() -> None:
    teacher = teacher_of(6)
    state = build(configure(), teacher, Share(0, 1, 3)).state_dict()
    with pytest.raises(CheckpointMismatchError, match=r"\[0, 1, 3\] .* these are \[1, 2, 3\]: give each share its own"):
        build(configure(), teacher, Share(1, 2, 3)).load_state_dict(state)


def test_more_generators_than_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 generators are more than the teacher's 7 classes"):
        build(configure(), teacher_of(7), Share(0, 8, 8))


OUTPUTS = ["sigmoid", "tanh", "batchnorm", "tanh_batchnorm"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["generator", "large_generator", "conditional", "deep_conditional"])
def test_every_architecture_makes_in_a_stack_what_it_makes_alone(name: str, output: str) -> None:
    fields = {"name": name, "latent": 4, "width": 2, "condition": "one_hot", "output": output, "initialisation": "torch"}
    config = GeneratorConfig.parse(fields)
    spec = ImageSpec(channels=3, height=7, width=33 if name == "deep_conditional" else 9, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))
    slices = [range(0, 2), range(2, 5), range(5, 6)]
    torch.manual_seed(0)
    alone = [build_generator(config if len(own) > 1 else config.model_copy(update={"condition": "none"}), spec, len(own)) for own in slices]
    stack = StackedGenerator(alone, slices).to(memory_format=torch.channels_last)
    latent = torch.randn(15, 4)
    labels = torch.cat([torch.randint(own.start, own.stop, (5,)) for own in slices])
    for mode in (True, False):
        made = stack.train(mode)(latent, labels)
        parts = zip(alone, slices, latent.chunk(3), labels.chunk(3), strict=True)
        expected = torch.cat([one.train(mode)(z, y - own.start) for one, own, z, y in parts])
        torch.testing.assert_close(made, expected)
    for index, one in enumerate(alone):
        for key, value in stack.rows(index, stack.state_dict()).items():
            torch.testing.assert_close(value, one.state_dict()[key])


@pytest.mark.parametrize("groups", [1, 3])
def test_a_transposed_convolution_is_an_upsampling_and_a_convolution(groups: int) -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(2, groups * 4, 5, 6, requires_grad=True), torch.randn(groups * 3, 4, 3, 3, requires_grad=True)
    wide = nn.functional.interpolate(features, scale_factor=2)
    expected = nn.functional.conv2d(wide, weight, padding=1, groups=groups)
    kernel = upsampling_kernel(weight, groups)
    ours = nn.functional.conv_transpose2d(features, kernel, stride=2, padding=1, groups=groups)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (features, weight), upstream), torch.autograd.grad(expected, (features, weight), upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
