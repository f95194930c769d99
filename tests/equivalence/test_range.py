"""Generators that end in a BatchNorm, against arithmetic in float64 one value at a time: range, mapping, and the way of the gradient."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from contract.tiny import build, tiny_settings
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import Generator, build_generator
from distillery.numerics import clamp_through
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=2, height=8, width=6, mean=(0.4, 0.7), std=(0.3, 0.2))
OUTPUTS = ["batchnorm", "tanh_batchnorm"]


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(output: str) -> tuple[Generator, Tensor, Tensor]:
    """A generator in train mode, what its last convolution gave, and its images."""
    torch.manual_seed(3)
    generator = build_generator(GeneratorConfig.parse({"name": "generator", "latent": 6, "width": 4, "output": output}), SPEC, 3).train()
    raw: list[Tensor] = []
    generator.last.register_forward_hook(lambda _, __, result: raw.append(result))
    images = generator(torch.randn(5, 6))
    raw[0].retain_grad()
    return generator, raw[0], images


def plain(generator: Generator, output: str, raw: Tensor) -> Tensor:
    """The values before the clamp, channel by channel."""
    channels = []
    raw = raw[..., : SPEC.width]  # it is made at the next multiple of 4
    for channel in range(2):
        values = raw[:, channel].tanh() if output == "tanh_batchnorm" else raw[:, channel]
        mean = sum(values.flatten()) / values.numel()
        variance = sum((values.flatten() - mean) ** 2) / values.numel()
        normalised = (values - mean) / (variance + 1e-5) ** 0.5
        if output == "batchnorm":
            norm = generator.output_norm
            normalised = normalised * norm.weight[channel] + norm.bias[channel]
        channels.append(normalised * SPEC.std[channel] + SPEC.mean[channel])
    return torch.stack(channels, 1)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("output", OUTPUTS)
def test_images_are_the_normalised_values_mapped_back_and_clamped(output: str) -> None:
    generator, raw, images = made(output)
    before = plain(generator, output, raw)
    assert bool((before < 0).any() | (before > 1).any()), "nothing would be clamped"
    torch.testing.assert_close(images, before.clamp(0, 1), rtol=1e-10, atol=1e-12)
    pull = torch.randn(images.shape)
    images.backward(pull)
    alone = raw.detach().requires_grad_()
    plain(generator, output, alone).backward(pull)  # no clamp at all: what the straight way through one must equal
    torch.testing.assert_close(raw.grad, alone.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("_float64")
def test_a_teacher_sees_mean_0_and_variance_1_where_nothing_is_clamped() -> None:
    generator, raw, _ = made("tanh_batchnorm")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (SPEC.mean, SPEC.std))
    seen = (plain(generator, "tanh_batchnorm", raw) - mean) / std
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(2), atol=1e-9, rtol=0)
    assert float((seen.var((0, 2, 3), correction=0).detach() - 1).abs().max()) < 1e-2


def test_a_clamp_that_gradients_pass_is_exact() -> None:
    values = torch.tensor([-1e8, -0.1, 0.0, 0.3, 1.0, 3.7, 1e8], requires_grad=True)
    clamped = clamp_through(values)
    assert torch.equal(clamped, values.detach().clamp(0, 1))
    clamped.backward(pull := torch.arange(7.0))
    assert torch.equal(values.grad, pull)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", ["ls_gdfd", "fast_dfkd"])
def test_a_method_learns_with_it_and_its_images_stay_in_range(method: str, output: str) -> None:
    own = tiny_settings(method)
    generator = own.generator.model_copy(update={"output": output})  # type: ignore[attr-defined]
    synthesizer = build(method, settings=own.model_copy(update={"generator": generator}))
    first = synthesizer.advance(None)
    for _ in range(20):
        last = synthesizer.advance(None)
    assert sum(last.terms.values()) < sum(first.terms.values())  # type: ignore[operator]
    assert last.batch is not None
    assert float(last.batch.images.min()) == 0.0, "no pixel was clamped"
    for images in (last.batch.images, synthesizer.synthesize(9).images):
        assert bool(((images >= 0) & (images <= 1)).all())
