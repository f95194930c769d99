"""The one decoder of pictures: from the bytes of a file to 8 bits a channel, grey or RGB, and in words what that took.

Whoever reads pictures reads them here, so that a picture looks the same to every command.
"""

import io
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distillery.errors import ConfigError, StoreError

_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that pillow knows by name but hands to another program, which may run what the file says, or cannot draw at all."""
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
    b"qoif",
)
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_SIXTEEN_AS_32 = ("PNG", "PPM")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_CONVERTED = ("CMYK", "YCbCr", "HSV")


class Decoded(NamedTuple):
    """A picture.

    Attributes:
        pixels: (H, W) uint8 of a grey one, (H, W, 3) of a coloured one.
        changes: what was done to its pixels, in words.
    """

    pixels: NDArray[np.uint8]
    changes: tuple[str, ...]


def decode(data: bytes, name: str) -> Decoded:
    """Read one picture.

    It is turned as its EXIF says; of several frames the first is taken; a palette is looked up; what is transparent is laid on white;
    of 16 bits the upper 8 are kept; CMYK, YCbCr and HSV become RGB.

    Args:
        data: the file.
        name: of the file, for the error.

    Raises:
        ConfigError: more pixels than pillow allows, or values whose range nobody can know (floats, 32-bit integers).
        StoreError: a file that is damaged, empty or no picture.
    """
    if not data:
        raise StoreError(f"{name!r} is damaged or no image, it has 0 bytes: copy it again, or leave it out.")
    picture, changes = _open(data, name)
    flat, flattened = _flatten(_shallow(picture, changes))
    changes += ["laid on white"] * flattened
    if flat.mode in _CONVERTED:
        changes.append(f"{flat.mode} -> RGB")
    elif flat.mode not in ("1", "L", "P", "RGB", "RGBX"):
        raise ConfigError(f"{name!r} has pixels of mode {flat.mode}: save it as grey or RGB with 8 or 16 bits a channel.")
    return Decoded(np.array(flat.convert("L" if flat.mode in ("1", "L") else "RGB"), dtype=np.uint8), tuple(changes))


def is_picture(name: str, head: bytes) -> bool:
    """Whether a file should be a picture: by the ending of its name, or by its first 16 bytes where that says nothing."""
    _, dot, ending = name.rpartition(".")
    return has_picture_ending(name) or (
        (not dot or f".{ending.lower()}" not in Image.registered_extensions())
        and (head.startswith(_SIGNATURES) or head[:4] == b"RIFF" and head[8:12] == b"WEBP" or head[4:12] in (b"ftypavif", b"ftypavis"))
    )


def has_picture_ending(name: str) -> bool:
    """Whether a name ends as those of pictures do that pillow reads, in upper or lower case."""
    return name.lower().endswith(_endings())


@cache
def _endings() -> tuple[str, ...]:
    return tuple(ending for ending, kind in Image.registered_extensions().items() if kind in _formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_PICTURES))


def _open(data: bytes, name: str) -> tuple[Image.Image, list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow warns of odd metadata, which changes no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=_formats())
            picture.load()
            upright = picture.copy()
            turn = _UPRIGHT.get(_orientation(picture))
            changes = [] if turn is None else ["rotated as its EXIF says"]
            if (frames := _frames(picture)) > 1:
                changes.append(f"the first of {frames} frames")
            if upright.mode in _SIXTEEN or (upright.mode == "I" and picture.format in _SIXTEEN_AS_32):
                upright = _sixteen_bits(upright, picture)
            return (upright if turn is None else upright.transpose(turn)), changes
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ConfigError(f"{name!r} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: give a smaller picture.") from None
    except Exception:  # pillow's readers raise whatever the damage leads to
        raise StoreError(f"{name!r} is damaged or no image: copy it again, or leave it out.") from None


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged notes beside the pixels say nothing, and the pixels are whole
        return 1


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # only what follows the first frame is damaged
        return 1


def _sixteen_bits(values: Image.Image, source: Image.Image) -> Image.Image:
    """Values over all of 16 bits; pillow leaves TIFFs whose zero is white, and those that use fewer bits, to its caller."""
    tags = getattr(source, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))[0]
    array = np.asarray(values).astype(np.uint16) << (16 - bits)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        array = np.uint16(0xFFFF) - array
    scaled = Image.fromarray(array)
    scaled.info = dict(values.info)
    return scaled


def _shallow(picture: Image.Image, changes: list[str]) -> Image.Image:
    """The upper 8 of 16 bits, as pillow itself takes them of 16-bit RGB; exact for values that once were bytes, shifted or times 257."""
    if picture.mode not in _SIXTEEN:
        return picture
    changes.append("16 bits -> 8")
    values = np.asarray(picture)
    shallow = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        shallow.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return shallow


def _flatten(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture without alpha, and whether any of it was transparent: that is laid on white, as a page shows it."""
    mode = _PREMULTIPLIED.get(picture.mode, picture.mode)
    key = picture.info.get("transparency")
    if mode not in ("LA", "PA", "RGBA") and key is None:
        return picture, False
    if isinstance(key, tuple) and max(key) > 0xFF:  # of 16 bits, as its pixels were
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    full = (picture if mode == picture.mode else picture.convert(mode)).convert("RGBA")
    seen_through = full.getchannel("A").getextrema()[0] != 0xFF
    flat = Image.alpha_composite(Image.new("RGBA", full.size, "white"), full)
    return flat.convert("L" if mode in ("1", "L", "LA") else "RGB"), seen_through
