"""Labelled data in a bucket, in the layouts that folders have."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.data.real import load_labelled
from distillery.errors import ConfigError, MissingResourceError
from distillery.storage.s3 import S3Store
from labelled_files import GRAY, LABELS, assert_loaded, idx


def put(store: S3Store, **files: bytes) -> None:
    for key, data in files.items():
        store.write(key, data)


def test_layouts_in_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    where = f"s3://{bucket}/data"
    picture, arrays = io.BytesIO(), io.BytesIO()
    Image.fromarray(GRAY[0]).save(picture, "PNG")
    np.savez(arrays, images=GRAY, labels=LABELS)
    folders, raw = S3Store(bucket, "data/folders"), S3Store(bucket, "data/MNIST/raw")
    put(folders, **{"cat/a.PNG": picture.getvalue(), "dog/b": picture.getvalue(), "dog/c.txt": b"x", ".DS_Store": b"x"})
    put(raw, **{"t10k-images-idx3-ubyte": idx(GRAY), "t10k-labels-idx1-ubyte": idx(LABELS)})
    put(S3Store(bucket, "data"), **{"x.npz": arrays.getvalue(), "x.zip": b"x"})
    found = load_labelled(f"{where}/folders", ["dog", "cat"])
    assert found.labels.tolist() == [1, 0]
    assert found.notes == ("skipped 1 hidden file ('.DS_Store') and 1 file that is no picture ('dog/c.txt')",)
    for end in ("MNIST", "MNIST/raw", "MNIST/t10k", "MNIST/raw/t10k", "MNIST/raw/t10k-labels-idx1-ubyte", "x.npz"):
        assert_loaded(load_labelled(f"{where}/{end}"), GRAY)
    with pytest.raises(ConfigError, match="is an archive"):
        load_labelled(f"{where}/x.zip")
    with pytest.raises(MissingResourceError, match="There is no data at"):
        load_labelled(f"{where}/nothing")
