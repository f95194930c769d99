"""One picture in every form that files have: the same pixels, or a sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from distillery.data.decoding import decode, has_picture_ending, is_picture
from distillery.errors import ConfigError, StoreError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
"""How a camera's picture lies in its file, by what the EXIF says."""


def saved(picture: Image.Image | NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(saved(TURNS[orientation](RGB), kind, exif=exif, **options), "a")
    assert np.array_equal(found.pixels, RGB)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(saved(RGB, exif=exif), "a").changes == ()


def test_damaged_exif_leaves_the_pixels_alone() -> None:
    assert np.array_equal(decode(saved(RGB, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), "a").pixels, RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("factor", [256, 257])
def test_sixteen_grey_bits_keep_the_upper_eight(kind: str, factor: int) -> None:
    found = decode(saved(GREY.astype(np.uint16) * factor, kind), "a")
    assert np.array_equal(found.pixels, GREY)
    assert found.changes == ("16 bits -> 8",)


def test_sixteen_bits_may_be_big_endian() -> None:
    data = saved(Image.frombytes("I;16B", (8, 6), (GREY.astype(">u2") * 257).tobytes()), "TIFF")
    assert np.array_equal(decode(data, "a").pixels, GREY)


def test_twelve_bits_in_use_reach_to_white() -> None:
    tags = ((256, 4, 2), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 4, 1), (279, 4, 3))
    entries = b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in tags)
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
    data += b"\0" * (200 - len(data)) + bytes([0xFF, 0xF8, 0x00])  # 0xFFF and 0x800
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.mode, np.asarray(picture).tolist()) == ("I;16", [[0xFFF, 0x800]])
    assert decode(data, "a").pixels.tolist() == [[0xFF, 0x80]]


def test_sixteen_bits_whose_zero_is_white_are_turned_round() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    data = saved(np.uint16(0xFFFF) - GREY.astype(np.uint16) * 257, "TIFF", tiffinfo=tags)
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    assert np.array_equal(decode(data, "a").pixels, GREY)


def png(depth: int, colour: int, rows: bytes, width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any bit depth; pillow writes few of them."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(("depth", "row", "values"), [(1, 0b0110_0000, [0, 255, 255, 0]), (2, 0b00_01_10_11, [0, 85, 170, 255])])
def test_fewer_than_eight_bits_reach_from_black_to_white(depth: int, row: int, values: list[int]) -> None:
    assert decode(png(depth, 0, bytes([0, row]), 4, 1), "a").pixels.tolist() == [values]


@pytest.mark.parametrize("key", [0x1234, 0x00FF])
def test_sixteen_bits_with_a_transparent_value_are_laid_on_white(key: int) -> None:
    rows = b"\0" + struct.pack(">HH", key, 0x8000)
    found = decode(png(16, 0, rows, 2, 1, (b"tRNS", struct.pack(">H", key))), "a")
    assert found.pixels.tolist() == [[255, 0x80]]
    assert found.changes == ("16 bits -> 8", "laid on white")


def test_sixteen_bits_of_colour_with_a_transparent_value_are_laid_on_white() -> None:
    rows = b"\0" + struct.pack(">6H", 0x1200, 0x3400, 0x5600, 0x1200, 0x3400, 0x5700)
    found = decode(png(16, 2, rows, 2, 1, (b"tRNS", struct.pack(">3H", 0x1200, 0x3400, 0x5600))), "a")
    assert found.pixels.tolist() == [[[255, 255, 255], [0x12, 0x34, 0x57]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    picture = Image.fromarray(RGB).convert("RGBA")
    for place, alpha in ((0, 0), (1, 128)):
        picture.putpixel((place, 0), (*RGB[0, place].tolist(), alpha))
    found = decode(saved(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), "a")
    assert found.pixels[0, 0].tolist() == [255] * 3
    assert np.abs(found.pixels[0, 1].astype(int) - (RGB[0, 1] * (128 / 255) + 127).round()).max() <= 1
    assert np.array_equal(found.pixels[1:], RGB[1:])
    assert found.changes == ("laid on white",)


@pytest.mark.parametrize("mode", ["LA", "L", "1"])
def test_grey_stays_grey_where_it_is_transparent(mode: str) -> None:
    if mode == "LA":
        picture = Image.fromarray(np.stack([GREY, np.where(GREY < 100, 0, 255).astype(np.uint8)], axis=2), "LA")
        data, expected = saved(picture), np.where(GREY < 100, 255, GREY)
    elif mode == "L":
        data, expected = saved(GREY, transparency=int(GREY[2, 3])), np.where(GREY == GREY[2, 3], 255, GREY)
    else:
        data, expected = saved(Image.fromarray(GREY > 128), transparency=0), np.full_like(GREY, 255)
    found = decode(data, "a")
    assert np.array_equal(found.pixels, expected)
    assert found.changes == ("laid on white",)


def test_a_palette_with_alpha_is_looked_up() -> None:
    picture = Image.fromarray((RGB // 128) * 255).quantize(8)
    expected = np.array(picture.convert("RGB"))
    expected[np.array(picture) == 2] = 255
    alphas = bytes(0 if index == 2 else 255 for index in range(8))
    assert np.array_equal(decode(saved(picture, transparency=alphas), "a").pixels, expected)
    assert np.array_equal(decode(saved(picture, "GIF", transparency=2), "a").pixels, expected)


def test_cmyk_becomes_rgb_also_from_an_inverted_jpeg() -> None:
    flat = np.broadcast_to(np.array([200, 90, 30], dtype=np.uint8), (16, 16, 3))
    for kind in ("TIFF", "JPEG"):
        found = decode(saved(Image.fromarray(flat).convert("CMYK"), kind), "a")
        assert np.abs(found.pixels.astype(int) - flat).max() <= 3
        assert found.changes == ("CMYK -> RGB",)


def test_the_first_frame_is_taken_and_that_is_said() -> None:
    frames = [Image.fromarray(np.full((6, 8), value, dtype=np.uint8)) for value in (10, 200, 30)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        found = decode(
            saved(frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})), "a"
        )
        assert (found.pixels == 10).all()
        assert "the first of 3 frames" in found.changes


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_values_of_unknown_range_are_refused(dtype: type[np.generic], mode: str) -> None:
    with pytest.raises(ConfigError, match=f"'x.tif' has pixels of mode {mode}: save it as grey or RGB"):
        decode(saved(GREY.astype(dtype), "TIFF"), "x.tif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO"])
@pytest.mark.parametrize("share", [0, 0.3, 0.8])
def test_half_a_file_is_damaged(kind: str, share: float) -> None:
    data = saved(Image.fromarray(RGB.repeat(8, axis=0).repeat(8, axis=1)), kind)
    with pytest.raises(StoreError, match="'x' is damaged or no image"):
        decode(data[: int(share * len(data))], "x")


def test_postscript_is_no_picture_because_another_program_would_run_it() -> None:
    with pytest.raises(StoreError, match="is damaged or no image"):
        decode(saved(RGB, "EPS"), "x")


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "b.TIF", "c.jpe", "d.JFIF", "e.webp", "f.j2k", "g.avif", "h.pnm", "i.TIFF"])
def test_endings_of_pictures(name: str) -> None:
    assert has_picture_ending(name)


@pytest.mark.parametrize("name", ["a.txt", "png", "b.pdf", "c.eps", "d.h5", "e.npz", "f.png.bak", "g.wmf"])
def test_other_endings(name: str) -> None:
    assert not has_picture_ending(name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF"])
def test_a_picture_without_an_ending_is_known_by_its_first_bytes(kind: str) -> None:
    head = saved(RGB, kind)[:16]
    assert is_picture("0001", head)
    assert is_picture("photo.0001", head)
    assert not is_picture("0001", b"hello, world, it")
    assert not is_picture("a.h5", head)
