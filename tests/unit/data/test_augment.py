"""Augmentation equals the slow loop, pixel for pixel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from distillery.data.augment import AugmentConfig, augment, draw_shifts
from distillery.errors import ConfigError
from distillery.seeding import stream


def slow_augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    down, right, mirror = draw_shifts(len(images), config, generator)
    pad, (height, width) = config.crop_padding, images.shape[-2:]
    out = []
    for image, y, x, mirrored in zip(images, down.tolist(), right.tolist(), mirror.tolist(), strict=True):
        crop = F.pad(image, (pad, pad, pad, pad))[:, pad + y : pad + y + height, pad + x : pad + x + width]
        out.append(crop.flip(-1) if mirrored else crop)
    return torch.stack(out)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    config=st.builds(AugmentConfig, crop_padding=st.integers(0, 12), flip=st.booleans()),
    seed=st.integers(0, 1000),
)
def test_equals_padding_and_slicing(shape: tuple[int, int, int, int], config: AugmentConfig, seed: int) -> None:
    images = torch.rand(shape, generator=stream(seed, "images"))
    assert torch.equal(augment(images, config, stream(seed)), slow_augment(images, config, stream(seed)))


def test_off_returns_the_input_and_draws_nothing() -> None:
    images, generator = torch.rand(2, 3, 4, 4), stream(0)
    before = generator.get_state()
    assert augment(images, AugmentConfig(), generator) is images
    assert torch.equal(generator.get_state(), before)


def test_every_image_moves_by_itself_over_the_whole_range() -> None:
    config = AugmentConfig(crop_padding=2, flip=True)
    down, right, mirror = draw_shifts(4000, config, stream(0))
    places = down * 100 + right * 10 + mirror
    values, counts = places.unique(return_counts=True)
    assert len(values) == 5 * 5 * 2
    assert counts.min() > 40  # 80 expected
    assert down.unique().tolist() == right.unique().tolist() == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize(("config", "still"), [(AugmentConfig(flip=True), "rows"), (AugmentConfig(crop_padding=1), "unmirrored")])
def test_one_augmentation_leaves_the_other_off(config: AugmentConfig, still: str) -> None:
    down, right, mirror = draw_shifts(100, config, stream(0))
    if still == "rows":
        assert not down.any()
        assert not right.any()
        assert 30 < mirror.sum() < 70
    else:
        assert not mirror.any()
        assert down.any()
        assert right.any()


def test_gradients_flow_to_the_pixels_that_are_seen() -> None:
    config = AugmentConfig(crop_padding=2, flip=True)
    images = torch.rand(5, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 2, 6, 7, dtype=torch.float64)
    (augment(images, config, stream(3)) * weights).sum().backward()
    fast = images.grad
    images.grad = None
    (slow_augment(images, config, stream(3)) * weights).sum().backward()
    assert torch.equal(fast, images.grad)


def test_autocast_does_not_round_the_pixels() -> None:
    images, config = torch.rand(4, 3, 8, 8), AugmentConfig(crop_padding=2)
    plain = augment(images, config, stream(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(images, config, stream(0))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    images = torch.rand(3, 1, 5, 5).to(dtype)
    out = augment(images, AugmentConfig(crop_padding=1, flip=True), stream(0))
    assert out.dtype == dtype
    assert torch.equal(out, slow_augment(images, AugmentConfig(crop_padding=1, flip=True), stream(0)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_stream_gives_the_same_crops_on_the_gpu() -> None:
    images, config = torch.rand(16, 3, 32, 32), AugmentConfig(crop_padding=4, flip=True)
    assert torch.equal(augment(images.cuda(), config, stream(0)).cpu(), augment(images, config, stream(0)))


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ConfigError, match="crop_padding"):
        AugmentConfig.parse({"crop_padding": -1})
