"""Noise is asked for by an address, the same from the same seed, like no other from another."""

import pytest
import torch

from distillery.data.noise import LARGEST, draw_noise, is_noise, noise_images
from distillery.data.ood import load_ood
from distillery.errors import ConfigError
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=2, height=5, width=4, mean=(0.2, 0.8), std=(0.1, 0.05))


def test_an_address_says_how_much_and_from_which_seed() -> None:
    found = draw_noise("noise://7", SPEC)
    assert (tuple(found.shape), found.dtype) == ((7, 2, 5, 4), torch.uint8)
    assert torch.equal(found, noise_images(SPEC, 7, 0))
    assert torch.equal(draw_noise("noise://7?seed=3", SPEC), noise_images(SPEC, 7, 3))
    assert not torch.equal(draw_noise("noise://7?seed=3", SPEC), found)
    assert [is_noise(uri) for uri in ("noise://7", "noise", "/data/noise.npy", "s3://noise/7")] == [True, False, False, False]


def test_one_half_is_uniform_and_the_other_has_the_teacher_s_mean_and_deviation() -> None:
    pixels = noise_images(SPEC, 4000, 0).double() / 255
    uniform, gaussian = pixels[:2000], pixels[2000:]
    assert uniform.mean((0, 2, 3)).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert uniform.std((0, 2, 3)).tolist() == pytest.approx([12**-0.5] * 2, abs=0.01)
    assert gaussian.mean((0, 2, 3)).tolist() == pytest.approx([0.2, 0.8], abs=0.01)
    assert gaussian.std((0, 2, 3)).tolist() == pytest.approx([0.1, 0.05], abs=0.01)


def test_it_may_be_of_another_domain_too() -> None:
    assert torch.equal(load_ood("noise://5", SPEC).images, noise_images(SPEC, 5, 0))


@pytest.mark.parametrize(
    "uri", ["noise://", "noise://0", "noise://x", "noise://5?seed=", "noise://5?seed=-1", "noise://5/1", f"noise://{LARGEST + 1}"]
)
def test_what_says_no_number_is_one_sentence(uri: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed: write noise://COUNT, such as noise://6000"):
        draw_noise(uri, SPEC)
