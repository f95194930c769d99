"""Data sets in the layouts that people have them in: a file that exists is never "no data"."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distillery.data.real import load_labelled
from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.types import ImageSpec
from labelled_files import GRAY, LABELS, PIXELS, assert_loaded, idx, write_idx, write_pictures

LAST = PIXELS.transpose(0, 2, 3, 1)


def grey_spec(channels: int = 1) -> ImageSpec:
    return ImageSpec(channels=channels, height=5, width=6, mean=(0.5,) * channels, std=(0.5,) * channels)


def save(folder: Path, **arrays: NDArray[np.generic]) -> None:
    folder.mkdir(exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


@pytest.mark.parametrize("below", ["raw", "MNIST/raw", "data/FashionMNIST/raw"])
def test_the_folder_above_raw(below: str, tmp_path: Path) -> None:
    (tmp_path / below).mkdir(parents=True)
    write_idx(tmp_path / below, "train-", LABELS)
    write_idx(tmp_path / below, "t10k-", LABELS[::-1])
    found = load_labelled(str(tmp_path))
    assert_loaded(found, GRAY, LABELS[::-1])
    assert found.notes == (f"'t10k' taken, not '{below}/train' (end the path with '{below}/train' for that)",)
    assert_loaded(load_labelled(str(tmp_path), split="train"), GRAY, LABELS)
    assert_loaded(load_labelled(f"{tmp_path}/{below}/train"), GRAY, LABELS)
    if below == "raw":
        assert_loaded(load_labelled(f"{tmp_path}/train"), GRAY, LABELS)


def test_several_data_sets_below_are_named(tmp_path: Path) -> None:
    for name in ("MNIST", "KMNIST"):
        (tmp_path / name).mkdir()
        write_idx(tmp_path / name, "t10k-")
    with pytest.raises(ConfigError, match="holds several parts: end the path with one of KMNIST/t10k, MNIST/t10k"):
        load_labelled(str(tmp_path))


def test_half_a_pair_by_its_prefix_is_said(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(GRAY))
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte' has no file of labels beside it"):
        load_labelled(f"{tmp_path}/t10k")


def test_a_file_and_its_gzip_are_one(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k-", packed=False)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GRAY))[:9])
    assert_loaded(load_labelled(str(tmp_path)), GRAY)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_pair_by_one_of_its_files(name: str, tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k-")
    write_idx(tmp_path, "train-", LABELS[::-1])
    assert_loaded(load_labelled(str(tmp_path / name)), GRAY, LABELS)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("x_test", "y_test"),
        ("X_test", "Y_test"),
        ("test_images", "test_labels"),
        ("data", "targets"),
        ("test-x", "test-y"),
    ],
)
def test_pairs_of_npy_files(images: str, labels: str, tmp_path: Path) -> None:
    save(tmp_path, **{images: PIXELS, labels: LABELS})
    assert_loaded(load_labelled(str(tmp_path)), PIXELS)
    assert_loaded(load_labelled(str(tmp_path / f"{images}.npy")), PIXELS)
    assert_loaded(load_labelled(str(tmp_path / f"{labels}.npy")), PIXELS)


def test_of_npy_pairs_the_one_for_testing_is_taken(tmp_path: Path) -> None:
    save(tmp_path, x_train=LAST, y_train=LABELS[:, None], x_test=LAST[::-1], y_test=LABELS[::-1, None])
    found = load_labelled(str(tmp_path))
    assert_loaded(found, PIXELS[::-1].copy(), LABELS[::-1])
    assert found.notes == ("'test' taken, not 'train' (end the path with 'train' for that)", "channels last -> first")
    assert_loaded(load_labelled(f"{tmp_path}/train"), PIXELS, LABELS)


@pytest.mark.parametrize("names", [("x_test", "y_test", "x_train", "y_train"), ("images", "labels", "ids")])
def test_npz_as_keras_saves_it(names: tuple[str, ...], tmp_path: Path) -> None:
    values = dict(zip(names, (GRAY, LABELS, GRAY[::-1], LABELS[::-1]), strict=False))
    np.savez(tmp_path / "mnist.npz", **values)
    assert_loaded(load_labelled(str(tmp_path / "mnist.npz")), GRAY)
    assert_loaded(load_labelled(str(tmp_path)), GRAY)


def test_other_names_in_npz_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=GRAY, classes=LABELS)
    with pytest.raises(
        ConfigError, match=r"has no array 'images' but \['pictures', 'classes'\]: save it with arrays 'images' and 'labels'"
    ):
        load_labelled(str(tmp_path / "a.npz"))


def test_npy_of_objects_and_npy_alone(tmp_path: Path) -> None:
    save(tmp_path, images=PIXELS)
    with pytest.raises(ConfigError, match=r"images.npy' has no file of labels beside it"):
        load_labelled(str(tmp_path / "images.npy"))
    save(tmp_path, labels=np.array([{}] * 4))
    with pytest.raises(StoreError, match=r"labels.npy' is damaged or no npy file of numbers"):
        load_labelled(str(tmp_path))


def test_grey_and_colour_become_what_the_classifier_expects(tmp_path: Path) -> None:
    save(tmp_path, images=GRAY, labels=LABELS)
    assert_loaded(load_labelled(str(tmp_path), spec=grey_spec(3)), GRAY[:, None].repeat(3, axis=1))
    save(tmp_path, images=PIXELS, labels=LABELS)
    found = load_labelled(str(tmp_path), spec=grey_spec(1))
    expected = [np.asarray(Image.fromarray(pixels).convert("L")) for pixels in LAST]
    assert_loaded(found, np.stack(expected))
    assert found.notes == ("RGB -> grey",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.zip", "is an archive, which is not read: unpack it and give the folder"),
        ("cifar-10-python.tar.gz", "is an archive"),
        ("a.png", "is one picture: give the folder that holds a folder of pictures a class"),
        ("a.parquet", "is a file of a kind that is not read: give an npz file"),
        ("notes", "is a file of a kind that is not read"),
        ("images-idx3-ubyte", "has no file of labels beside it"),
        ("train-labels-idx1-ubyte.gz", "has no file of images beside it"),
    ],
)
def test_a_file_that_exists_is_said_for_what_it_is(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=said):
        load_labelled(str(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        ([], MissingResourceError, "is a folder without a file that could be read: give an npz file"),
        ([".DS_Store"], MissingResourceError, r"without a file that could be read \(skipped 1 hidden file \('.DS_Store'\)\)"),
        (["a.csv", "b/c.txt"], ConfigError, r"holds 'a.csv', 'b/c.txt', but no pair of idx files and no folder of images a class"),
        (["a.png", "b.png"], ConfigError, "holds 'a.png', 'b.png', but no pair .*: move each class's pictures into a folder"),
        (["cifar-10-python.tar.gz"], ConfigError, "unpack 'cifar-10-python.tar.gz' first"),
    ],
)
def test_a_folder_without_data_is_said_for_what_it_holds(names: list[str], kind: type[Exception], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(kind, match=said):
        load_labelled(str(tmp_path))


def test_the_folder_above_train_and_val_is_said(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", ["cat", "dog"])
    write_pictures(tmp_path / "val", ["cat", "dog"])
    with pytest.raises(ConfigError, match=r"holds 'train', 'val' and no folder a class: give '.*/train' or '.*/val'"):
        load_labelled(str(tmp_path), ["cat", "dog"])
    assert load_labelled(str(tmp_path / "val"), ["cat", "dog"]).labels.tolist() == [0, 1]


def test_what_class_folders_hold_beside_pictures_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(tmp_path, ["cat", "dog", "Cat"])
    for name in (".DS_Store", "classes.txt", "cat/notes.txt", "mouse/readme.md", "cat/.ipynb_checkpoints/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    Image.fromarray(LAST[0]).save(tmp_path / "beside.png")
    found = load_labelled(str(tmp_path), ["cat", "dog"])
    assert found.labels.tolist() == [0, 0, 1]
    assert found.notes == (
        "skipped 2 hidden files ('.DS_Store', 'cat/.ipynb_checkpoints/a.png'), 3 files that are no pictures "
        "('cat/notes.txt', 'classes.txt', 'mouse/readme.md') and 1 picture outside the class folders ('beside.png')",
        "no picture in 'empty', 'mouse'",
        "folders 'Cat', 'cat' are one class",
    )
    assert all(note in caplog.text for note in found.notes)


def test_a_linked_class_folder_is_read(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", ["cat"])
    write_pictures(tmp_path / "data", ["dog"])
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert load_labelled(str(tmp_path / "data")).labels.tolist() == [0, 1]
