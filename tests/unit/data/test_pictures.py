"""Pictures of every kind: converted where that is harmless and said, refused in one sentence where it is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from distillery.data.pictures import Picture, read_pictures
from distillery.errors import ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.types import ImageSpec

COLOUR = ImageSpec(channels=3, height=6, width=8, mean=(0.5,) * 3, std=(0.2,) * 3)
GREY = ImageSpec(channels=1, height=6, width=8, mean=(0.5,), std=(0.2,))
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(folder: Path, picture: Image.Image, name: str = "a.png", **options: object) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def one(path: Path, spec: ImageSpec, resize: bool = False) -> Picture:
    (picture,) = read_pictures([path], spec, resize)
    assert picture.pixels.dtype == torch.uint8
    assert tuple(picture.pixels.shape) == spec.shape
    return picture


def test_a_png_that_fits_is_read_to_the_pixel(tmp_path: Path) -> None:
    picture = one(saved(tmp_path, Image.fromarray(RGB)), COLOUR)
    assert torch.equal(picture.pixels, torch.from_numpy(RGB).permute(2, 0, 1))
    assert (picture.name, picture.changes) == (str(tmp_path / "a.png"), "")


def test_colour_becomes_grey_by_luma_and_says_so(tmp_path: Path) -> None:
    picture = one(saved(tmp_path, Image.fromarray(RGB)), GREY)
    luma = (RGB @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(picture.pixels[0].numpy().astype(float) - luma).max() <= 1
    assert picture.changes == "RGB -> grey"


def test_grey_is_repeated_and_says_so(tmp_path: Path) -> None:
    picture = one(saved(tmp_path, Image.fromarray(RGB[..., 0])), COLOUR)
    assert all(torch.equal(channel, torch.from_numpy(RGB[..., 0])) for channel in picture.pixels)
    assert picture.changes == "grey -> RGB"


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    picture = one(saved(tmp_path, Image.fromarray(RGB[..., 0] > 128)), GREY)
    assert set(picture.pixels.flatten().tolist()) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_opaque_alpha_and_palettes_change_nothing(mode: str, tmp_path: Path) -> None:
    few = (RGB // 128) * 255 if mode == "P" else RGB
    source = Image.fromarray(few).convert("L" if mode == "LA" else "RGB")
    spec = GREY if mode == "LA" else COLOUR
    written = source.quantize(8) if mode == "P" else source.convert(mode)
    expected = np.array(source)
    picture = one(saved(tmp_path, written), spec)
    assert np.array_equal(picture.pixels.numpy(), expected[None] if mode == "LA" else expected.transpose(2, 0, 1))
    assert picture.changes == ""


def transparent(mode: str) -> tuple[Image.Image, dict[str, object]]:
    if mode == "palette":
        return Image.fromarray(RGB).quantize(8), {"transparency": 0}
    if mode == "key colour":
        return Image.fromarray(RGB), {"transparency": tuple(RGB[2, 3].tolist())}
    picture = Image.fromarray(RGB).convert("RGBA")
    picture.putpixel((3, 2), (1, 2, 3, 254))
    return picture, {}


@pytest.mark.parametrize(("mode", "at"), [("palette", None), ("key colour", (2, 3)), ("alpha", (2, 3))])
def test_transparent_pixels_are_laid_on_white_and_that_is_said(mode: str, at: tuple[int, int] | None, tmp_path: Path) -> None:
    source, options = transparent(mode)
    picture = one(saved(tmp_path, source, **options), COLOUR)
    expected = np.array(source.convert("RGB")).transpose(2, 0, 1)
    clear = np.array(source) == 0 if at is None else np.zeros((6, 8), dtype=bool)
    if mode == "key colour":
        clear[at] = True
    expected[:, clear] = 255
    if mode == "alpha":
        expected[:, 2, 3] = [round((value * 254 + 255) / 255) for value in (1, 2, 3)]
    assert np.array_equal(picture.pixels.numpy(), expected)
    assert picture.changes == "laid on white"


def test_a_key_colour_that_no_pixel_has_changes_nothing(tmp_path: Path) -> None:
    assert not (RGB == 7).all(axis=2).any()
    assert torch.equal(
        one(saved(tmp_path, Image.fromarray(RGB), transparency=(7, 7, 7)), COLOUR).pixels, torch.from_numpy(RGB).permute(2, 0, 1)
    )


def test_another_size_is_refused_unless_it_may_be_stretched(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(RGB.repeat(4, axis=0)))
    with pytest.raises(
        ConfigError, match=r"is 8 x 24 pixels \(width x height\), but the classifier expects 8 x 6: resize it, or give --re"
    ):
        one(path, COLOUR)
    picture = one(path, GREY, resize=True)
    assert picture.changes == "RGB -> grey, 8 x 24 -> 8 x 6"


def test_resizing_averages_and_does_not_skip_pixels(tmp_path: Path) -> None:
    stripes = np.zeros((48, 64), np.uint8)
    stripes[:, ::2] = 255
    assert abs(one(saved(tmp_path, Image.fromarray(stripes)), GREY, resize=True).pixels.float().mean() - 127.5) < 8


def test_a_camera_held_upright_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.fromarray(RGB).rotate(90, expand=True)
    picture = one(saved(tmp_path, sideways, exif=exif), COLOUR)
    assert torch.equal(picture.pixels, torch.from_numpy(RGB).permute(2, 0, 1))
    assert picture.changes == "rotated as its EXIF says"


def npz(folder: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]
    return folder / "a.npz"


def test_npz_holds_many(tmp_path: Path) -> None:
    images = np.stack([RGB.transpose(2, 0, 1), 255 - RGB.transpose(2, 0, 1)])
    first, second = read_pictures([npz(tmp_path, images=images)], COLOUR)
    assert (first.name, second.name) == (f"{tmp_path / 'a.npz'}[0]", f"{tmp_path / 'a.npz'}[1]")
    assert np.array_equal(torch.stack([first.pixels, second.pixels]).numpy(), images)


def test_grey_npz_without_channels_is_converted(tmp_path: Path) -> None:
    (picture,) = read_pictures([npz(tmp_path, images=RGB[None, ..., 0])], COLOUR)
    assert picture.changes == "grey -> RGB"
    (picture,) = read_pictures([npz(tmp_path, images=RGB.transpose(2, 0, 1)[None])], GREY)
    assert picture.changes == "RGB -> grey"


def test_other_channels_come_from_npz_only(tmp_path: Path) -> None:
    spec = ImageSpec(channels=2, height=6, width=8, mean=(0.5,) * 2, std=(0.2,) * 2)
    images = RGB.transpose(2, 0, 1)[None, :2]
    (picture,) = read_pictures([npz(tmp_path, images=images)], spec)
    assert np.array_equal(picture.pixels.numpy(), images[0])
    with pytest.raises(ConfigError, match=r"expects 2 channels: give npz with uint8 \(N, 2, H, W\)"):
        one(saved(tmp_path, Image.fromarray(RGB)), spec)
    with pytest.raises(ConfigError, match="has 2 channels, but the classifier expects 3 channels"):
        list(read_pictures([tmp_path / "a.npz"], COLOUR))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((1, 3, 6, 8), np.float32)}, "are float32"),
        ({"images": np.zeros((6,), np.uint8)}, "give uint8 as"),
        ({"pictures": np.zeros((1, 6, 8), np.uint8)}, "no array 'images' but"),
    ],
)
def test_wrong_npz(arrays: dict[str, NDArray[np.generic]], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        list(read_pictures([npz(tmp_path, **arrays)], COLOUR))


def truncated(folder: Path) -> Path:
    path = saved(folder, Image.fromarray(RGB.repeat(8, axis=0)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text(folder: Path, name: str = "a.png") -> Path:
    (folder / name).write_text("hello")
    return folder / name


def pickled(folder: Path) -> Path:
    np.savez(folder / "a.npz", images=np.array([{}], dtype=object))
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (truncated, StoreError, "is damaged or no image"),
        (text, StoreError, "is damaged or no image"),
        (lambda folder: text(folder, "a.npz"), StoreError, "is damaged or no npz file"),
        (pickled, StoreError, "is damaged or no npz file"),
        (lambda folder: folder / "none.png", MissingResourceError, "There is no image"),
        (lambda folder: folder, ConfigError, "is a folder: find its pictures"),
    ],
)
def test_what_cannot_be_read(make: object, kind: type[DistilleryError], said: str, tmp_path: Path) -> None:
    assert callable(make)
    with pytest.raises(kind, match=said) as refused:
        list(read_pictures([make(tmp_path)], COLOUR))
    assert "Error" not in str(refused.value), "no name of a class"


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ConfigError, match="more than 40 pixels"):
        one(saved(tmp_path, Image.fromarray(RGB)), COLOUR)
