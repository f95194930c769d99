"""Pictures that people have, turned into what a classifier takes; every change of a pixel is put into words."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.types import ImageSpec

_GREY, _COLOUR = ("1", "L"), ("RGB", "P")
_OPAQUE = {"RGBA": "RGB", "LA": "L", "PA": "RGB"}
_NAMES = {1: "grey", 3: "RGB"}


@dataclass(frozen=True)
class Picture:
    """One picture as a classifier takes it.

    Attributes:
        name: its file, and its place in it where the file holds several.
        pixels: (C, H, W) uint8.
        changes: what was done to it, in words; "" where nothing was.
    """

    name: str
    pixels: Tensor
    changes: str


def read_pictures(paths: Sequence[Path], spec: ImageSpec, resize: bool = False) -> Iterator[Picture]:
    """Read pictures one after the other.

    A coloured picture becomes grey by ITU-R 601 luma, a grey one RGB by repeating it; a palette is looked up, an opaque alpha channel
    dropped, and a camera's EXIF rotation applied. Nothing else is changed unless `resize` is set.

    Args:
        paths: PNG, JPEG and whatever else pillow reads; or npz with an array `images` uint8 (N, C, H, W) or (N, H, W).
        spec: the images that the classifier expects.
        resize: stretch a picture of another size (bilinear with antialiasing, proportions not kept) instead of refusing it.

    Raises:
        ConfigError: another size without `resize`, transparent pixels, more than 8 bits a channel, or a number of channels that cannot be
            converted.
        MissingResourceError: no such file.
        StoreError: a file that is damaged or no image.
    """
    for path in paths:
        data = _read(path)
        if path.suffix.lower() == ".npz":
            yield from _from_npz(data, path, spec, resize)
        else:
            yield _fit(*_open(data, path), str(path), spec, resize)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingResourceError(f"There is no image {str(path)!r}: check the path.") from None
    except IsADirectoryError:
        raise ConfigError(f"{str(path)!r} is a folder: name its images, such as {str(path / '*.png')!r} without the quotes.") from None
    except OSError as error:
        raise StoreError(f"The image {str(path)!r} cannot be read ({error.strerror}): check its permissions.") from None


def _open(data: bytes, path: Path) -> tuple[Image.Image, list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow warns of odd metadata, which changes no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ConfigError(f"{str(path)!r} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: give a smaller picture.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise StoreError(f"{str(path)!r} is damaged or no image: give PNG, JPEG or npz.") from None
    rotated = picture.getexif().get(0x0112, 1) != 1
    return upright, ["rotated as its EXIF says"] if rotated else []


def _from_npz(data: bytes, path: Path, spec: ImageSpec, resize: bool) -> Iterator[Picture]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = arrays.files
            images = arrays["images"] if "images" in found else None
    except Exception as error:  # numpy and zipfile raise whatever the damage leads to
        raise StoreError(f"{str(path)!r} is damaged or no npz file ({type(error).__name__}): copy or make it again.") from None
    if images is None:
        raise ConfigError(f"{str(path)!r} has no array 'images' but {found}: save the pictures under that name.")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ConfigError(f"The images of {str(path)!r} are {images.dtype} {list(images.shape)}: give uint8 as (N, C, H, W) or (N, H, W).")
    for index, image in enumerate(images if images.ndim == 4 else images[:, None]):
        yield _from_array(image, f"{path}[{index}]", spec, resize)


def _from_array(image: NDArray[np.uint8], name: str, spec: ImageSpec, resize: bool) -> Picture:
    if image.shape == spec.shape:
        return Picture(name, torch.from_numpy(image.copy()), "")
    if image.shape[0] not in _NAMES:
        raise ConfigError(f"{name!r} is {list(image.shape)}, but the classifier expects {list(spec.shape)} (C, H, W): convert it.")
    return _fit(Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))), [], name, spec, resize)


def _fit(picture: Image.Image, changes: list[str], name: str, spec: ImageSpec, resize: bool) -> Picture:
    picture = _flat(picture, name)
    changes = changes + _conversion(picture, name, spec.channels)
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    wanted = (spec.width, spec.height)
    if picture.size != wanted:
        if not resize:
            raise ConfigError(
                f"{name!r} is {picture.width} x {picture.height} pixels (width x height), but the classifier expects "
                f"{spec.width} x {spec.height}: resize it, or give --resize to have it stretched."
            )
        changes = [*changes, f"{picture.width} x {picture.height} -> {spec.width} x {spec.height}"]
        picture = picture.resize(wanted, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return Picture(name, pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous(), ", ".join(changes))


def _flat(picture: Image.Image, name: str) -> Image.Image:
    """The picture without alpha, which must be opaque: what lies behind transparent pixels is not ours to invent."""
    if picture.mode in _OPAQUE or "transparency" in picture.info:
        lowest = picture.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest != 255:
            raise ConfigError(f"{name!r} has transparent pixels: lay it on a background first.")
        picture = picture.convert(_OPAQUE.get(picture.mode, picture.mode))
        picture.info.pop("transparency", None)
    if picture.mode not in (*_GREY, *_COLOUR):
        raise ConfigError(f"{name!r} has pixels of mode {picture.mode}: save it as grey or RGB with 8 bits a channel.")
    return picture


def _conversion(picture: Image.Image, name: str, channels: int) -> list[str]:
    if channels not in _NAMES:
        raise ConfigError(
            f"{name!r} is a picture, but the classifier expects {channels} channels: give npz with uint8 (N, {channels}, H, W)."
        )
    found = 1 if picture.mode in _GREY else 3
    return [] if found == channels else [f"{_NAMES[found]} -> {_NAMES[channels]}"]
