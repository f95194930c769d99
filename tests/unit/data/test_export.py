"""Exports read back by torchvision and by the webdataset library, pixel for pixel."""

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from distillery.data import export
from distillery.data.export import ExportConfig, export_set, folder_names
from distillery.data.manifest import SetHeader
from distillery.data.real import load_labelled
from distillery.data.shards import Shard, sample_shards
from distillery.data.store import SetWriter, SyntheticSet
from distillery.errors import ConfigError, StoreError
from distillery.provenance import Provenance
from distillery.seeding import stream
from distillery.storage import FolderStore
from sets import publish_set

K = 12
NAMES = tuple(f"kind {index}" for index in range(K))


def make_set(folder: Path, channels: int = 1) -> SyntheticSet:
    """Two shards to train on and one held out; class 3 has no image."""
    header = SetHeader(shape=(channels, 5, 6), num_classes=K, teacher_sha256="a" * 64, provenance=Provenance(code_version="c"))
    writer = SetWriter(FolderStore(folder), header)
    draws = stream(0, "export")
    for n, role in ((20, "train"), (7, "holdout"), (11, "train")):
        images = torch.randint(0, 256, (n, channels, 5, 6), dtype=torch.uint8, generator=draws)
        logits = torch.randn(n, K, generator=draws)
        logits[:, 3] = -9.0
        writer.append(images, torch.arange(n) % K - 1, logits, role)
    return SyntheticSet.open(publish_set(writer).uri)


def parse(**values: Any) -> ExportConfig:
    return ExportConfig.parse(values, "export")


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("names", [(), NAMES], ids=["numbers", "names"])
@pytest.mark.parametrize("role", ["train", "holdout"])
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_reads_the_folders(channels: int, role: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", channels)
    images, _, logits = made.load(role)
    assert export_set(made, tmp_path / "out", parse(format="imagefolder", role=role), names) == len(images)
    read = ImageFolder(str(tmp_path / "out"))
    assert len(read) == len(images)
    for path, label in read.samples:
        number = int(Path(path).stem)
        pixels = pil_to_tensor(read.loader(path))
        assert torch.equal(pixels, images[number].expand(3, -1, -1))
        assert read.classes[label] == (names or [f"{index:02d}" for index in range(K)])[int(logits[number].argmax())]


@pytest.mark.parametrize("names", [(), NAMES], ids=["numbers", "names"])
def test_our_own_reader_takes_the_folders(names: tuple[str, ...], tmp_path: Path) -> None:
    made = make_set(tmp_path / "set")
    export_set(made, tmp_path / "out", parse(format="imagefolder"), names)
    read = load_labelled(str(tmp_path / "out"), names)
    train = made.load()
    assert sorted(torch.bincount(read.labels, minlength=K).tolist()) == sorted(made.manifest.counts)
    found = {(int(label), image.numpy().tobytes()) for image, label in zip(read.images, read.labels, strict=True)}
    assert found == {(int(row.argmax()), image.numpy().tobytes()) for image, row in zip(train.images, train.teacher_logits, strict=True)}
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(names or map(str, range(K)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its tars open
@pytest.mark.parametrize("role", ["train", "holdout"])
@pytest.mark.parametrize("channels", [1, 3])
def test_webdataset_reads_the_tars(channels: int, role: Any, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", channels)
    images, asked, logits = made.load(role)
    export_set(made, tmp_path / "out", parse(format="webdataset", role=role, shard_size=10))
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert len(tars) == -(-len(images) // 10)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert [int(sample["__key__"]) for sample in samples] == list(range(len(images)))
    for number, sample in enumerate(samples):
        assert torch.equal(pil_to_tensor(sample["png"]), images[number].expand(3, -1, -1))
        assert sample["cls"] == logits[number].argmax()
        assert sample["json"] == {"asked": asked[number], "obtained": logits[number].argmax()}
        assert np.array_equal(sample["logits.npy"], logits[number].numpy())


@pytest.mark.parametrize("format_", ["imagefolder", "webdataset"])
def test_equal_sets_give_equal_bytes(format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_set(make_set(tmp_path / "set"), tmp_path / "first", parse(format=format_), NAMES)
    monkeypatch.setattr("time.time", lambda: 1e9)
    export_set(make_set(tmp_path / "other"), tmp_path / "second", parse(format=format_), NAMES)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    document = json.loads((tmp_path / "first" / "export.json").read_text())
    assert (document["format"], document["images"]) == ("distillery-set-export", 31)
    assert document["provenance"]["inputs"]["set"] == make_set(tmp_path / "third").digest


@pytest.mark.parametrize("format_", ["imagefolder", "webdataset"])
def test_damage_leaves_nothing(format_: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set")
    last = tmp_path / "set" / made.entries("train")[-1].key
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StoreError, match="is damaged"):
        export_set(made, tmp_path / "out", parse(format=format_))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set")
    (tmp_path / "out").mkdir()
    export_set(made, tmp_path / "out", parse(format="imagefolder"))
    before = digests(tmp_path / "out")
    for taken in (tmp_path / "out", tmp_path / "out" / "classes.txt"):
        with pytest.raises(StoreError, match="not an empty folder"):
            export_set(made, taken, parse(format="webdataset"))
    assert digests(tmp_path / "out") == before


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = make_set(tmp_path / "set")
    monkeypatch.setattr(export, "_png", full)
    with pytest.raises(StoreError, match=r"^Cannot write the export .*no space is left"):
        export_set(made, tmp_path / "out", parse(format="webdataset"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Images of 4 channels"):
        export_set(make_set(tmp_path / "four", 4), tmp_path / "out", parse(format="imagefolder"))
    with pytest.raises(ConfigError, match="2 class names do not fit a set of 12 classes"):
        export_set(make_set(tmp_path / "one"), tmp_path / "out", parse(format="imagefolder"), ("a", "b"))
    header = SetHeader(shape=(1, 2, 2), num_classes=2, teacher_sha256="a" * 64, provenance=Provenance(code_version="c"))
    writer = SetWriter(FolderStore(tmp_path / "small"), header)
    writer.append(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None, torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="no images of the role 'holdout'"):
        export_set(SyntheticSet.open(publish_set(writer).uri), tmp_path / "out", parse(format="imagefolder", role="holdout"))
    for wrong in ({"format": "zip"}, {"format": "webdataset", "role": "test"}, {"format": "webdataset", "shard_size": 0}):
        with pytest.raises(ConfigError, match="export"):
            parse(**wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ("0", "1", "2")),
        (("cat", "dog", "cow"), ("cat", "dog", "cow")),
        (("a/b", "..", "c\\d:"), ("a_b", "class-1", "c_d_")),
        (("Cat", "cat", "dog."), ("Cat-0", "cat-1", "dog")),
        (("a/b", "a_b", "ä ö"), ("a_b-0", "a_b-1", "ä ö")),
    ],
)
def test_folder_names_are_safe_and_differ(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert folder_names(names, 3) == expected


def test_numbered_folders_sort_as_their_classes() -> None:
    assert sorted(folder_names((), 120)) == list(folder_names((), 120))


@pytest.mark.parametrize("limit", [1, 5, 31, 99])
def test_a_sample_is_drawn_from_all_shards_without_repeats(limit: int, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set")
    train = made.load()
    rows = [image.numpy().tobytes() for image in train.images]
    seen = set()
    for seed in range(20):
        found = sample_shards(made.store, made.entries("train"), limit, stream(seed, "sample"))
        places = [rows.index(image.numpy().tobytes()) for image in found.images]
        assert places == sorted(set(places)), "in order, none twice"
        assert len(places) == min(limit, 31)
        assert all(torch.equal(part, whole[places]) for part, whole in zip(found, train, strict=True))
        seen |= set(places)
    assert isinstance(found, Shard)
    assert limit == 1 or max(seen) > 25
