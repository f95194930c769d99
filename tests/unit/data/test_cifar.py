"""CIFAR's batches as its makers publish them; and that no pickle runs anything."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distillery.data.real import load_labelled
from distillery.errors import ConfigError, DistilleryError, StoreError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
TEN = [3, 0, 9, 1, 2, 3]
FINE, COARSE = [99, 3, 0, 41, 7, 20], [4, 19, 0, 1, 2, 3]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
    b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89T\x00\x18\x00\x00" + bytes(range(256)) * 24 + b"tbU\x06labelsq\x08]q\t(K\x07K\x01eu."
)
"""Two images as Python 2 and its numpy pickled them, as the published files are; no Python of today writes this."""


def write(folder: Path, name: str, document: dict[Any, Any], protocol: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(document, protocol))


def flat(part: slice = slice(None)) -> NDArray[np.uint8]:
    return PIXELS[part].reshape(-1, 3072)


def cifar10(folder: Path, protocol: int = 2) -> None:
    write(folder, "data_batch_1", {b"data": flat(slice(0, 2)), b"labels": TEN[:2], b"filenames": [b"a.png", b"b.png"]}, protocol)
    write(folder, "data_batch_2", {b"data": flat(slice(2, 4)), b"labels": TEN[2:4]}, protocol)
    write(folder, "test_batch", {b"data": flat(slice(4, 6)), b"labels": TEN[4:]}, protocol)
    write(folder, "batches.meta", {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}, protocol)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_pickled_batches_of_cifar_10(protocol: int, inside: str, tmp_path: Path) -> None:
    cifar10(tmp_path / inside, protocol)
    test, train = load_labelled(str(tmp_path)), load_labelled(str(tmp_path), split="train")
    assert np.array_equal(test.images.numpy(), PIXELS[4:])
    assert test.labels.tolist() == TEN[4:]
    assert np.array_equal(train.images.numpy(), PIXELS[:4])
    assert train.labels.tolist() == TEN[:4]
    assert "'test' taken, not 'train'" in test.notes[0].replace("cifar-10-batches-py/", "")


def test_as_python_2_pickled_them(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(PYTHON_2)
    found = load_labelled(str(tmp_path / "test_batch"))
    assert found.labels.tolist() == [7, 1]
    assert np.array_equal(found.images.numpy().reshape(-1), np.frombuffer(bytes(range(256)) * 24, np.uint8))


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_batch_by_its_name(order: str, tmp_path: Path) -> None:
    write(tmp_path, "data_batch_2", {"data": np.array(flat(), order=order), "labels": TEN})
    assert np.array_equal(load_labelled(str(tmp_path / "data_batch_2")).images.numpy(), PIXELS)


def test_a_classifier_with_another_order_of_the_same_classes_is_followed(tmp_path: Path) -> None:
    cifar10(tmp_path)
    found = load_labelled(str(tmp_path), tuple(name.title() for name in NAMES[::-1]))
    assert found.labels.tolist() == [9 - label for label in TEN[4:]]
    assert "classes numbered by their names" in found.notes
    assert load_labelled(str(tmp_path), [f"class {number}" for number in range(10)]).labels.tolist() == TEN[4:]


@pytest.mark.parametrize(("classes", "labels"), [(100, FINE), (20, COARSE), (0, FINE)])
@pytest.mark.parametrize("binary", [True, False])
def test_cifar_100_has_fine_and_coarse_labels(binary: bool, classes: int, labels: list[int], tmp_path: Path) -> None:
    if binary:
        (tmp_path / "test.bin").write_bytes(
            b"".join(bytes(row) + pixels.tobytes() for *row, pixels in zip(COARSE, FINE, flat(), strict=True))
        )
    else:
        write(tmp_path, "test", {b"data": flat(), b"fine_labels": FINE, b"coarse_labels": COARSE})
        write(tmp_path, "meta", {b"fine_label_names": [], b"coarse_label_names": []})
    found = load_labelled(str(tmp_path), [str(number) for number in range(classes)])
    assert np.array_equal(found.images.numpy(), PIXELS)
    assert found.labels.tolist() == labels


def test_binary_files_of_cifar_10(tmp_path: Path) -> None:
    records = [bytes([label]) + pixels.tobytes() for label, pixels in zip(TEN, flat(), strict=True)]
    (tmp_path / "data_batch_1.bin").write_bytes(b"".join(records[:4]))
    (tmp_path / "test_batch.bin").write_bytes(b"".join(records[4:]))
    (tmp_path / "batches.meta.txt").write_text("\n".join([*NAMES[::-1], ""]))
    found = load_labelled(str(tmp_path), NAMES)
    assert np.array_equal(found.images.numpy(), PIXELS[4:])
    assert found.labels.tolist() == [9 - label for label in TEN[4:]]
    assert load_labelled(f"{tmp_path}/train").labels.tolist() == TEN[:4]


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["test_batch", "batches.meta", "meta"])
def test_a_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    cifar10(tmp_path / "data")
    if name == "meta":
        (tmp_path / "data" / "batches.meta").unlink()
    write(tmp_path / "data", name, {b"data": flat(), b"labels": TEN, b"x": Evil(tmp_path / "ran")})
    with pytest.raises(ConfigError, match=r"is a pickle that asks for posix.mkdir, which is not run"):
        load_labelled(str(tmp_path / "data"), NAMES)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"c_codecs\ndecode\n(Vx\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.__new__\x93.",
        b"\x82\x01.",
        b"Px\n.",
        b"(i__main__\nX\n.",
    ],
)
def test_names_beside_the_list_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(DistilleryError, match=r"which is not run|is damaged or no pickled batch"):
        load_labelled(str(tmp_path / "test_batch"))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([1, 2], "is no pickled batch of CIFAR but a list"),
        ({b"data": flat()}, "is no batch of CIFAR: it needs data"),
        ({b"data": flat().astype(np.float32), b"labels": TEN}, "is damaged or no pickled batch|needs data"),
        ({b"data": flat()[:, :100], b"labels": TEN}, "needs data"),
        ({b"data": flat(), b"labels": TEN[:3]}, "and a label an image"),
        ({b"data": flat(), b"labels": [-1] * 6}, "and a label an image"),
        ({b"data": flat(), b"labels": ["cat"] * 6}, "and a label an image"),
        ({b"data": np.array([{}] * 6), b"labels": TEN}, "is damaged or no pickled batch"),
    ],
)
def test_other_pickles_are_said(document: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps(document))
    with pytest.raises(StoreError, match=said):
        load_labelled(str(tmp_path / "test_batch"))


def test_damage_at_any_byte_is_a_sentence_or_other_pixels(tmp_path: Path) -> None:
    whole = pickle.dumps({b"data": flat(slice(0, 1)), b"labels": TEN[:1]})
    path = tmp_path / "test_batch"
    noise = np.random.default_rng(1)
    places = [*range(120), *range(len(whole) - 60, len(whole)), *noise.integers(0, len(whole), 40).tolist()]
    for place in places:
        data = bytearray(whole)
        data[place] ^= int(noise.integers(1, 256))
        path.write_bytes(data)
        try:
            load_labelled(str(path))
        except DistilleryError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("data", [b"", b"x" * 3072, bytes([200]) + b"x" * 3072, bytes(3073) + b"xy"])
def test_damaged_binary_files(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(data)
    with pytest.raises(StoreError, match="is damaged or no binary file of CIFAR"):
        load_labelled(str(tmp_path))
