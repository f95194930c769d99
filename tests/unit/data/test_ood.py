"""Images of another domain: from sets, pictures and arrays, with or without labels."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.data.manifest import SetHeader
from distillery.data.ood import load_ood
from distillery.data.publishing import publish_manifest
from distillery.data.store import SetWriter
from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from fakes import SPEC
from labelled_files import idx

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


def same(uri: str | Path) -> bool:
    found = load_ood(str(uri), SPEC)
    return found.images.dtype == torch.uint8 and torch.equal(found.images[:, 0], torch.from_numpy(IMAGES))


def write_pictures(*places: Path) -> None:
    for place, image in zip(places, IMAGES, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)


def test_loose_pictures_and_those_of_folders_in_the_order_of_their_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(*(tmp_path / "loose" / f"{number}.png" for number in range(6)))
    (tmp_path / "loose" / "notes.txt").write_text("where they are from")
    assert same(tmp_path / "loose")
    assert "skipped 1 file that is no picture ('notes.txt')" in caplog.text
    names = ("0.png", "train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "val/cat/4.png", "x.png")
    write_pictures(*(tmp_path / "mixed" / name for name in names))
    assert same(tmp_path / "mixed")
    assert load_ood(str(tmp_path / "mixed"), SPEC).digest == load_ood(f"file://{tmp_path}/loose", SPEC).digest


def test_arrays_and_idx_files_need_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", images=IMAGES)
    np.savez(tmp_path / "labelled.npz", images=IMAGES, labels=np.arange(6) + 500)
    np.save(tmp_path / "x_train.npy", IMAGES)
    assert all(map(same, (tmp_path / "bare.npz", tmp_path / "labelled.npz", tmp_path / "x_train.npy")))
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    assert same(tmp_path / "idx")
    assert same(tmp_path / "idx" / "train-images-idx3-ubyte.gz")
    (tmp_path / "idx" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(6))))
    assert same(tmp_path / "idx")


def test_a_set_of_whatever_teacher_or_its_manifest(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "set")
    made = Provenance(code_version="test")
    writer = SetWriter(store, SetHeader(shape=SPEC.shape, num_classes=7, teacher_sha256="f" * 64, provenance=made))
    writer.append(torch.from_numpy(IMAGES[:, None]), None, torch.zeros(6, 7))
    digest = publish_manifest(store, writer.manifest()).sha256
    assert same(store.uri)
    assert same(f"{store.uri}/manifest.json")
    assert load_ood(store.uri, SPEC).digest == digest
    with pytest.raises(ConfigError, match=r"have shape \[1, 8, 8\], but the teacher takes \[1, 4, 4\]: convert them"):
        load_ood(store.uri, SPEC.model_copy(update={"height": 4, "width": 4}))
    shard = next(iter(store.list("shards")))
    store.write(shard, store.read(shard)[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        load_ood(store.uri, SPEC)


def test_the_digest_is_of_the_pixels_as_the_teacher_takes_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", images=IMAGES)
    np.savez(tmp_path / "last.npz", images=IMAGES[..., None])
    np.savez(tmp_path / "other.npz", images=IMAGES[::-1])
    grey, last, other = (load_ood(str(tmp_path / f"{name}.npz"), SPEC).digest for name in ("grey", "last", "other"))
    assert grey == last != other


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("nowhere", MissingResourceError, "There is no data at"),
        (
            "large",
            ConfigError,
            r"large/0.png' is 5 x 4 pixels .*, but the classifier expects 8 x 8: resize all to one size",
        ),
        ("large/0.png", ConfigError, "is one picture: give the folder that holds it and others"),
        ("broken", StoreError, "broken/0.png' is damaged or no image: copy it again, or leave it out"),
        ("names.npz", ConfigError, r"has no array 'images' but \['features'\]: save the pictures under that name"),
        ("floats.npy", ConfigError, r"are float32 of shape \[2, 8, 8\]: give uint8"),
        ("text", ConfigError, "holds 'a.txt', but no pair of idx files"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, error: type[Exception], said: str) -> None:
    for folder in ("large", "broken", "text"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((4, 5), dtype=np.uint8)).save(tmp_path / "large" / "0.png")
    (tmp_path / "broken" / "0.png").write_bytes(b"no picture")
    (tmp_path / "text" / "a.txt").write_text("a")
    np.savez(tmp_path / "names.npz", features=IMAGES)
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8), dtype=np.float32))
    with pytest.raises(error, match=said):
        load_ood(str(tmp_path / name), SPEC)
