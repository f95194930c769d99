"""The picture of synthetic images."""

import io

import pytest
import torch
from PIL import Image

from distillery.reporting.grid import image_grid


@pytest.mark.parametrize(("channels", "num"), [(1, 1), (3, 5), (1, 100), (4, 64)])
def test_every_image_is_on_the_grid_sorted_by_class(channels: int, num: int) -> None:
    classes = torch.arange(num).flip(0)
    images = (classes.clamp(max=250)[:, None, None, None].expand(num, channels, 40, 40)).to(torch.uint8)
    with Image.open(io.BytesIO(image_grid(images, classes))) as picture:
        shown = min(num, 64)
        side = {1: 1, 5: 3, 64: 8}[shown]
        assert picture.width == side * 41
        values = [picture.getpixel((column * 41 + 5, row * 41 + 5)) for row in range(picture.height // 41) for column in range(side)]
    expected = sorted(classes[:64].tolist())
    assert values[:shown] == [(value, value, value) for value in expected]
