"""import-teacher, as the command line calls it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.data.class_names import read_class_names
from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery.models.bundle import load_classifier, read_bundle
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import sha256_file
from distillery.steps.import_teacher import near_chance_hint, run
from distillery.types import ImageSpec

SPEC = {"channels": 1, "height": 8, "width": 8, "mean": [0.4], "std": [0.2]}
NET = {"name": "lenet5_half", "arguments": {"batch_norm": True}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    network = build_network(Architecture.parse(NET), ImageSpec.parse(SPEC), 3)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "foreign.pt")
    return tmp_path / "foreign.pt"


def _run(checkpoint: Path, **changes: Any) -> dict[str, Any]:
    given = {"architecture": NET, "spec": SPEC, "class_names": ["a", "b", "c"], "out_folder": checkpoint.parent / "out"}
    return run(checkpoint, **(given | changes))


def _labelled(folder: Path, bundle: Path, wrong: int, size: int = 8) -> str:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, size, size), dtype=np.uint8)
    labels = np.zeros(40, np.int64)
    if size == 8:
        with torch.no_grad():
            labels = load_classifier(bundle).eval()(torch.from_numpy(images).float() / 255).argmax(1).numpy()
        labels[:wrong] = (labels[:wrong] + 1) % 3
    np.savez(folder / "check.npz", images=images, labels=labels)
    return str(folder / "check.npz")


def test_bundle_is_written_and_named_by_its_hash(checkpoint: Path) -> None:
    result = _run(checkpoint)
    info, sha256 = read_bundle(checkpoint.parent / "out")
    assert result == {"sha256": sha256, "parameters": info.parameters, "batchnorm": 3, "classes": 3}
    document = json.loads((checkpoint.parent / "out" / "bundle.json").read_bytes())
    assert document["provenance"]["inputs"] == {"checkpoint": sha256_file(checkpoint)}
    assert str(checkpoint.parent) not in json.dumps(document)


def test_check_data_is_scored_and_leaves_the_bundle_as_it_is(checkpoint: Path) -> None:
    plain = _run(checkpoint)
    data = _labelled(checkpoint.parent, checkpoint.parent / "out", wrong=4)
    checked = _run(checkpoint, out_folder=checkpoint.parent / "again", check_data=data)
    assert checked["top1"] == pytest.approx(0.9)
    assert (checked["images"], checked["hint"], checked["sha256"]) == (40, "", plain["sha256"])


def test_chance_accuracy_warns_of_mean_and_std(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(checkpoint)
    data = _labelled(checkpoint.parent, checkpoint.parent / "out", wrong=30)
    hint = _run(checkpoint, check_data=data)["hint"]
    assert "mean or std" in caplog.text
    assert all(words in hint for words in ("mean or std", "RGB or BGR", "height and width swapped", "order of the class names"))
    assert "none of them alone explains it" in hint


def test_a_mistake_that_explains_the_accuracy_is_named_beside_it(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here the names: the check data call every class by the next one's name, which gives 0 %."""
    _run(checkpoint)
    with np.load(_labelled(checkpoint.parent, checkpoint.parent / "out", wrong=0)) as arrays:
        labels, images = arrays["labels"], arrays["images"]
    pictures = np.concatenate([images[:20] // 64, 255 - images[20:] // 64])  # the network has no class that it sees in plain noise alone
    with torch.no_grad():
        labels = load_classifier(checkpoint.parent / "out").eval()(torch.from_numpy(pictures).float() / 255).argmax(1).numpy()
    assert len(set(labels)) > 1
    np.savez(checkpoint.parent / "named.npz", images=pictures, labels=(labels + 1) % 3)
    result = _run(checkpoint, check_data=str(checkpoint.parent / "named.npz"))
    assert result["top1"] == 0
    assert "100.0 % of 20 of the images are named right with the classes in another order (" in result["hint"]
    assert result["hint"] in caplog.text


NEAR_CHANCE = [(0.1, 10, True), (0.5, 10, False), (0.01, 1000, True), (0.3, 1000, False), (0.5, 2, True), (0.8, 2, False), (0.36, 3, True)]


@pytest.mark.parametrize(("top1", "classes", "warns"), NEAR_CHANCE)
def test_near_chance(top1: float, classes: int, warns: bool) -> None:
    assert bool(near_chance_hint(top1, classes, 1000)) is warns


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": {"name": "lenet6"}}, "lenet6"),
        ({"architecture": {"nam": "lenet5"}}, "nam"),
        ({"spec": {**SPEC, "mean": [0.1, 0.2]}}, "mean has 2 values"),
        ({"class_names": ["a"]}, "at least 2"),
        ({"class_names": ["a", "b", "a"]}, "'a'"),
        ({"class_names": ["a", "b", ""]}, "''"),
        ({"class_names": ["a", "b"]}, "has 3 classes"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(checkpoint: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        _run(checkpoint, **changes)
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent / "out").exists()


def test_wrong_check_data_writes_nothing(checkpoint: Path) -> None:
    data = _labelled(checkpoint.parent, checkpoint.parent, wrong=0, size=6)
    with pytest.raises(ConfigError, match="8"):
        _run(checkpoint, check_data=data)
    with pytest.raises(MissingResourceError):
        _run(checkpoint, check_data=str(checkpoint.parent / "nowhere.npz"))
    assert not (checkpoint.parent / "out").exists()


def test_unwritable_out_folder(checkpoint: Path) -> None:
    (checkpoint.parent / "file").write_text("")
    with pytest.raises(DistilleryError, match="file"):
        _run(checkpoint, out_folder=checkpoint.parent / "file" / "out")


def test_class_names_come_from_a_file_a_list_or_a_number(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n dog \n\n", encoding="utf-8")
    assert read_class_names(str(tmp_path / "names.txt")) == ("cat", "dog")
    assert read_class_names("cat, dog") == ("cat", "dog")
    assert read_class_names("3") == ("0", "1", "2")
    with pytest.raises(MissingResourceError, match="nowhere"):
        read_class_names(str(tmp_path / "nowhere.txt"))
    (tmp_path / "names.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        read_class_names(str(tmp_path / "names.bin"))
    for text in ("1", "a,", "a,a"):
        with pytest.raises(ConfigError):
            read_class_names(text)
