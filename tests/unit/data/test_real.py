"""Labelled images from npz, idx and folders, and what is wrong with them."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from distillery.data.real import LabelledImages, load_labelled
from distillery.errors import ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.types import ImageSpec
from labelled_files import GRAY, LABELS, PIXELS, assert_loaded, idx, write_idx, write_pictures


@pytest.mark.parametrize("images", [PIXELS, GRAY])
def test_npz(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    np.savez(tmp_path / "x.npz", images=images, labels=LABELS.astype(np.int32))
    assert_loaded(load_labelled(str(tmp_path / "x.npz")), images)
    assert_loaded(load_labelled(f"file://{tmp_path}/x.npz"), images)


@pytest.mark.parametrize("prefix", ["train-", "t10k-", "emnist-letters-test-", ""])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
def test_one_pair_of_idx_files(tmp_path: Path, prefix: str, packed: bool, dot: str) -> None:
    write_idx(tmp_path / "d", prefix, dot=dot, packed=packed)
    assert_loaded(load_labelled(str(tmp_path / "d")), GRAY)
    if prefix:
        assert_loaded(load_labelled(f"{tmp_path}/d/{prefix[:-1]}"), GRAY)


def test_of_two_pairs_the_one_for_testing_is_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_idx(tmp_path, "train-", LABELS)
    write_idx(tmp_path, "t10k-", LABELS[::-1])
    assert_loaded(load_labelled(str(tmp_path)), GRAY, LABELS[::-1])
    assert "'t10k' taken, not 'train' (end the path with 'train' for that)" in caplog.text
    assert_loaded(load_labelled(str(tmp_path), split="train"), GRAY, LABELS)
    assert_loaded(load_labelled(f"{tmp_path}/t10k"), GRAY, LABELS[::-1])
    assert_loaded(load_labelled(f"{tmp_path}/train/"), GRAY, LABELS)


def test_pairs_of_which_none_is_named_for_testing_need_a_prefix(tmp_path: Path) -> None:
    for prefix in ("letters-", "digits-"):
        write_idx(tmp_path, prefix)
    with pytest.raises(ConfigError, match="end the path with one of digits, letters"):
        load_labelled(str(tmp_path))
    assert_loaded(load_labelled(f"{tmp_path}/letters"), GRAY)


def test_folder_of_colour_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["dog", "ant", "cat", "dog"])
    order = [1, 2, 0, 3]  # by folder, then by file
    assert_loaded(load_labelled(str(tmp_path)), PIXELS[order], np.array([0, 1, 2, 2]))


def test_folder_names_follow_the_classifier(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["dog", "ant"])
    assert load_labelled(str(tmp_path), ("dog", "bee", "ant")).labels.tolist() == [2, 0]
    with pytest.raises(ConfigError, match="has a folder 'ant', which is no class: use 'dog', 'bee'"):
        load_labelled(str(tmp_path), ("dog", "bee"))


def test_folders_with_numbers_are_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["10", "9", "2"])
    assert sorted(load_labelled(str(tmp_path)).labels.tolist()) == [2, 9, 10]
    assert sorted(load_labelled(str(tmp_path), [f"digit {n}" for n in range(11)]).labels.tolist()) == [2, 9, 10]
    assert sorted(load_labelled(str(tmp_path), ["9", "10", "2"]).labels.tolist()) == [0, 1, 2]


def test_gray_pictures_stay_gray_unless_there_is_colour(tmp_path: Path) -> None:
    write_pictures(tmp_path / "gray", ["a", "b"], mode="L")
    assert_loaded(load_labelled(str(tmp_path / "gray")), GRAY[:2], np.array([0, 1]))
    write_pictures(tmp_path / "mixed", ["a"], mode="L")
    write_pictures(tmp_path / "mixed", ["b"])
    mixed = load_labelled(str(tmp_path / "mixed")).images
    assert tuple(mixed.shape) == (2, 3, 5, 6)
    assert torch.equal(mixed[0], torch.from_numpy(GRAY[0]).expand(3, 5, 6))


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", StoreError, "is damaged or no npz file"),
        (b"not a zip", StoreError, "is damaged or no npz file"),
        (npz(images=PIXELS, labels=LABELS)[:-60], StoreError, "is damaged or no npz file"),
        (npz(images=np.array([{}]), labels=LABELS), StoreError, "is damaged or no npz file"),
        (npz(x=PIXELS, labels=LABELS), ConfigError, "has no array 'images'"),
        (npz(images=PIXELS, y=LABELS), ConfigError, "has no array 'labels'"),
        (npz(images=PIXELS / 255, labels=LABELS), ConfigError, r"are float64 of shape \[4, 3, 5, 6\]: give uint8"),
        (npz(images=PIXELS[:0], labels=LABELS[:0]), ConfigError, "N above 0"),
        (npz(images=PIXELS[0, 0], labels=LABELS), ConfigError, r"of shape \[5, 6\]"),
        (npz(images=PIXELS, labels=LABELS[:3]), ConfigError, r"of shape \[3\]: give 4 integers"),
        (npz(images=PIXELS, labels=LABELS / 1), ConfigError, "labels .* are float64"),
        (npz(images=PIXELS, labels=LABELS - 1), ConfigError, "integers from 0"),
        (npz(images=PIXELS, labels=(LABELS - 1).astype(np.uint64)), ConfigError, "integers from 0"),
        (npz(images=PIXELS, labels=(LABELS - 1).astype(np.uint32)), ConfigError, "integers from 0"),
    ],
)
def test_bad_npz(tmp_path: Path, data: bytes, kind: type[DistilleryError], words: str) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(kind, match=words) as caught:
        load_labelled(str(tmp_path / "x.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0", idx(GRAY)[:-1], idx(GRAY) + b"x", idx(GRAY, kind=0x0D), b"\1" + idx(GRAY)[1:], gzip.compress(idx(GRAY))],
)
def test_damaged_idx(tmp_path: Path, data: bytes) -> None:
    write_idx(tmp_path, "t10k-", packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(StoreError, match="'t10k-images-idx3-ubyte' .* is damaged"):
        load_labelled(str(tmp_path))


@pytest.mark.parametrize("cut", [0, 10, 20])
def test_damaged_gzip(tmp_path: Path, cut: int) -> None:
    write_idx(tmp_path, "t10k-")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DistilleryError, match="t10k-labels-idx1-ubyte.gz"):
        load_labelled(str(tmp_path))


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty", "absent/deeper", "x.npz"):
        with pytest.raises(MissingResourceError):
            load_labelled(str(tmp_path / name))


def test_nothing_of_use_there(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(GRAY))
    with pytest.raises(ConfigError, match="no pair of idx files and no folder of images"):
        load_labelled(str(tmp_path))


def test_bad_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a", "b"])
    (tmp_path / "b" / "1.png").write_bytes(b"no picture")
    with pytest.raises(StoreError, match=r"b/1.png' is damaged or no image"):
        load_labelled(str(tmp_path))
    Image.fromarray(PIXELS[0, 0, :3]).save(tmp_path / "b" / "1.png")
    with pytest.raises(ConfigError, match=r"b/1.png' is 6 x 3 pixels \(width x height\), but the first image is 6 x 5: resize all"):
        load_labelled(str(tmp_path))


def test_check() -> None:
    data = LabelledImages(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    spec = ImageSpec(channels=3, height=5, width=6, mean=(0.5,) * 3, std=(0.5,) * 3)
    data.check(spec, 3)
    with pytest.raises(ConfigError, match="have a label 2, but the classifier has 2 classes"):
        data.check(spec, 2)
    for field, value in (("height", 6), ("width", 5)):
        with pytest.raises(ConfigError, match="images are 3 x 5 x 6, but the classifier expects"):
            data.check(spec.model_copy(update={field: value}), 3)
    with pytest.raises(ConfigError, match="expects 1 x 5 x 6"):
        data.check(ImageSpec(channels=1, height=5, width=6, mean=(0.5,), std=(0.5,)), 3)


def test_digest_sees_pixels_labels_and_shape() -> None:
    images, labels = torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
    other = images.clone()
    other[0, 0, 0, 0] ^= 1
    variants = [(images, labels), (other, labels), (images, labels.flip(0)), (images.reshape(4, 3, 6, 5), labels)]
    assert len({LabelledImages(*pair).digest() for pair in variants}) == 4
    assert LabelledImages(images.clone(), labels.clone()).digest() == LabelledImages(images, labels).digest()
