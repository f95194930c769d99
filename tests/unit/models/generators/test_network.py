"""Generators: shapes, ranges, conditions, initialisation, first-layer reset."""

import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.models.generators.config import GeneratorConfig
from distillery.models.generators.network import Generator, build_generator
from distillery.types import ImageSpec


def _spec(channels: int = 3, height: int = 32, width: int = 32) -> ImageSpec:
    return ImageSpec(channels=channels, height=height, width=width, mean=(0.5,) * channels, std=(0.25,) * channels)


def _generator(name: str = "generator", spec: ImageSpec | None = None, **fields: object) -> Generator:
    return build_generator(GeneratorConfig.parse({"name": name, "latent": 12, "width": 4, **fields}), spec or _spec(), 5)


NAMES = ["generator", "large_generator", "conditional"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 20), (2, 30, 33), (3, 1, 2)])
def test_images_have_the_asked_shape_and_range(name: str, shape: tuple[int, int, int]) -> None:
    generator = _generator(name, _spec(*shape))
    with torch.no_grad():
        images = generator(50 * torch.randn(6, 12))
    assert images.shape == (6, *shape)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0


@pytest.mark.parametrize(("output", "curve"), [("sigmoid", torch.sigmoid), ("tanh", lambda x: (torch.tanh(x) + 1) / 2)])
def test_output_curve(output: str, curve: object) -> None:
    generator = _generator(output=output).eval()
    raw: list[torch.Tensor] = []
    generator.last.register_forward_hook(lambda _, __, result: raw.append(result))
    images = generator(torch.randn(2, 12))
    assert torch.equal(images, curve(raw[0]))  # type: ignore[operator]


def test_each_generator_ends_as_published_unless_told_otherwise() -> None:
    assert GeneratorConfig(name="conditional").output == "tanh"
    assert GeneratorConfig(name="generator").output == "sigmoid"
    assert GeneratorConfig(name="conditional", output="sigmoid").output == "sigmoid"
    assert GeneratorConfig.parse(GeneratorConfig(name="conditional").to_json()) == GeneratorConfig(name="conditional")


def test_layers_are_the_published_ones_at_32_pixels() -> None:
    """Linear(256 -> 128*8*8) BN, 128->128, 128->64, 64->3 as methods of this family have them."""
    with torch.device("meta"):
        generator = build_generator(GeneratorConfig(name="generator"), _spec(), 10)
    linear = 256 * 128 * 64 + 128 * 64
    norms = 2 * (128 + 128 + 64)
    convolutions = 9 * (128 * 128 + 128 * 64) + (9 * 64 * 3 + 3)
    assert sum(p.numel() for p in generator.parameters()) == linear + norms + convolutions
    kinds = [type(layer).__name__ for layer in generator.stages]
    assert kinds == ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"] * 2
    assert isinstance(generator.activation, nn.Identity)


def test_conditional_layers_are_the_published_ones() -> None:
    with torch.device("meta"):
        generator = build_generator(GeneratorConfig(name="conditional", latent=1024, condition="one_hot"), _spec(), 10)
    assert generator.linear.bias is None
    assert generator.linear.in_features == 1034
    assert generator.linear.out_features == 128 * 8 * 8
    assert isinstance(generator.activation, nn.LeakyReLU)
    assert [module.negative_slope for module in generator.modules() if isinstance(module, nn.LeakyReLU)] == [0.2] * 3


def test_large_generator_starts_twice_as_wide() -> None:
    with torch.device("meta"):
        generator = build_generator(GeneratorConfig(name="large_generator"), _spec(), 10)
    assert [layer.out_channels for layer in generator.stages if isinstance(layer, nn.Conv2d)] == [128, 64]
    assert generator.norm.num_features == 256


def test_norm_epsilon_reaches_the_stages_only() -> None:
    generator = _generator("conditional", norm_epsilon=0.8)
    assert [module.eps for module in generator.modules() if isinstance(module, nn.BatchNorm2d)] == [1e-5, 0.8, 0.8]


@pytest.mark.parametrize("name", NAMES)
def test_labels_change_a_conditional_image_by_their_scale(name: str) -> None:
    generator = _generator(name, condition="one_hot", condition_scale=3.0).eval()
    z = torch.randn(1, 12).expand(2, -1)
    inputs: list[torch.Tensor] = []
    generator.linear.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    images = generator(z, torch.tensor([0, 4]))
    assert not torch.equal(images[0], images[1])
    assert torch.equal(inputs[0][:, 12:], torch.tensor([[3.0, 0, 0, 0, 0], [0, 0, 0, 0, 3.0]]))
    assert torch.equal(inputs[0][:, :12], z)


def test_labels_are_ignored_without_a_condition_and_demanded_with_one() -> None:
    plain = _generator().eval()
    z = torch.randn(2, 12)
    assert torch.equal(plain(z), plain(z, torch.tensor([1, 2])))
    with pytest.raises(ConfigError, match="no labels"):
        _generator(condition="one_hot")(z)


def test_images_stay_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _generator()(torch.randn(4, 12)).dtype == torch.float32


def test_normal_initialisation() -> None:
    generator = _generator(latent=256, width=32)
    assert generator.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.linear.bias is not None
    assert generator.linear.bias.abs().max() == 0
    assert generator.norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert 0.01 < generator.norm.weight.std() < 0.03
    assert _generator(latent=256, width=32, initialisation="torch").linear.weight.abs().max() > 0.06


@pytest.mark.parametrize("mode", ["first_layer", "first_layer_and_norm"])
def test_reset_touches_only_the_first_layers(mode: str) -> None:
    generator = _generator(latent=200, width=16)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(7)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator.reset_first_layers(mode, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    changed = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    expected = {"linear.weight", "linear.bias"} | ({"norm.weight", "norm.bias"} if mode == "first_layer_and_norm" else set())
    assert changed == expected
    assert generator.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    if mode == "first_layer_and_norm":
        assert generator.norm.weight.abs().max() < 0.1
        assert generator.norm.bias.abs().max() == 0


def test_reset_draws_from_the_given_stream_alone() -> None:
    first, second = _generator(), _generator()
    state = torch.get_rng_state()
    for generator in (first, second):
        generator.reset_first_layers("first_layer", torch.Generator().manual_seed(3))
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert torch.equal(state, torch.get_rng_state())
    assert first.first_layers() == (first.linear, first.norm)


def test_gradients_reach_latents_and_every_weight() -> None:
    generator = _generator("conditional", condition="one_hot")
    z = torch.randn(4, 12, requires_grad=True)
    generator(z, torch.arange(4)).square().sum().backward()
    assert z.grad is not None
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"name": "dcgan"}, "dcgan"), ({"name": "generator", "latent": 0}, "latent"), ({"name": "generator", "ngf": 3}, "ngf")],
)
def test_wrong_config_is_one_sentence(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GeneratorConfig.parse(fields, "generator")
