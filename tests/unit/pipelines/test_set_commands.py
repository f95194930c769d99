"""inspect, verify and export as a user calls them."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from distillery.data.manifest import SetHeader
from distillery.data.reference import write_reference
from distillery.data.store import SetWriter, SyntheticSet
from distillery.documents import seal
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from distillery_kfp.pipelines.cli import app as cli
from fakes import CLASSES, TINY, quadrants, tiny_teacher
from sets import publish_set


class Desk:
    """A teacher, a set of its quadrants with four copies at the end, and a way to call the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set = folder / "set"
        classifier = tiny_teacher(steps=10)
        self.teacher = folder / "teacher"
        sha256 = save_classifier(self.teacher, classifier, TINY, Provenance(code_version="c"))
        health = {"duplicate_similarity": 0.99999, "max_duplicates": 0.01, "min_class_distance": 0}
        provenance = Provenance(code_version="c", config={"health": health})
        header = SetHeader(shape=(1, 8, 8), num_classes=4, teacher_sha256=sha256, provenance=provenance)
        writer = SetWriter(FolderStore(self.set), header)
        images, asked = quadrants(80, torch.Generator().manual_seed(0))
        images = (torch.cat([images, images[:4]]) * 255).to(torch.uint8)
        asked = torch.cat([asked, asked[:4]])
        asked[:10] = -1
        with torch.no_grad():
            logits = classifier(images.float() / 255)
        writer.append(images, asked, logits)
        writer.append(images[:9], asked[:9], logits[:9], "holdout")
        self.images, self.logits, self.asked = images, logits, asked
        self.reference = folder / "reference"
        write_reference(self.reference, publish_set(writer))

    def call(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["distillery", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    def shard(self, role: str = "train") -> Path:
        return self.set / SyntheticSet.open(str(self.set)).entries(role)[0].key  # type: ignore[arg-type]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_inspect_tells_what_the_set_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.call(monkeypatch, "inspect", desk.set, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    obtained = desk.logits.argmax(1)
    assert found["counts"] == torch.bincount(obtained, minlength=4).tolist()
    assert found["asked"] == torch.bincount(desk.asked[desk.asked >= 0], minlength=4).tolist()
    assert found["agreed"] == int((desk.asked == obtained).sum())
    assert (found["images"], found["holdout"], sum(found["holdout_counts"])) == (84, 9, 9)
    assert found["bytes"] == sum(path.stat().st_size for path in (desk.set / "shards").iterdir())
    confidence = desk.logits.double().softmax(1).amax(1)
    assert found["confidence"]["p50"] == pytest.approx(float(confidence.quantile(0.5)))
    assert found["confidence"]["p100"] == pytest.approx(float(confidence.max()))
    assert found["health"]["features"] == "logits"
    assert found["class_names"] == ["0", "1", "2", "3"]
    assert found["health"]["config"]["max_duplicates"] == 0.01, "the thresholds of its recipe"


def test_inspect_compares_by_features_with_the_teacher(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.call(monkeypatch, "inspect", desk.reference, "--teacher", desk.teacher, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["health"]["features"] == "network.head"
    assert found["class_names"] == list(CLASSES)
    assert found["health"]["diversity"]["duplicates"] == pytest.approx(4 / 84), "the planted copies"
    assert found["health"]["findings"] == ["5% of the images nearly repeat an earlier one (cosine above 0.99999), above 1%."]


def test_inspect_shows_tables(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.call(monkeypatch, "inspect", desk.set, "--teacher", desk.teacher) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CLASSES)
    assert "█" * 30 in out
    assert "penultimate features" in out
    assert "nearly repeat an earlier one" in out
    assert desk.call(monkeypatch, "inspect", desk.set, "--sample", 20) == 0
    out = capsys.readouterr().out
    assert "stored in the set" in out
    assert "20 images" in out


def test_inspect_shows_few_of_many_classes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    classes = 1000
    header = SetHeader(shape=(1, 2, 2), num_classes=classes, teacher_sha256="0" * 64, provenance=Provenance(code_version="c"))
    writer = SetWriter(FolderStore(tmp_path / "many"), header)
    obtained = torch.arange(2, classes).repeat(2)  # the first two classes have no image
    logits = torch.nn.functional.one_hot(obtained, classes).float()
    writer.append(torch.zeros(len(obtained), 1, 2, 2, dtype=torch.uint8), None, logits)
    publish_set(writer)
    assert desk.call(monkeypatch, "inspect", tmp_path / "many", "--grid", tmp_path / "grid.png") == 0
    out = capsys.readouterr().out
    assert "the 40 rarest of 1,000; --json has all" in " ".join(out.split())
    rows = [line.split("│")[1:4] for line in out.splitlines() if line.startswith("│")][:40]
    assert [(row[0].strip(), row[2].strip()) for row in rows[:3]] == [("0", "0"), ("1", "0"), ("2", "2")]
    assert "100 of 1,000 classes" in out
    assert "0.0" not in next(line for line in out.splitlines() if "size on disk" in line)
    assert len(out.splitlines()) < 80


def test_inspect_draws_a_row_a_class(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    target = desk.folder / "pictures" / "grid.png"
    assert desk.call(monkeypatch, "inspect", desk.set, "--grid", target, "--json") == 0
    obtained = desk.logits.argmax(1)
    with Image.open(io.BytesIO(target.read_bytes())) as picture:
        scale = picture.width // 90
        assert picture.size == (10 * 9 * scale, 4 * 9 * scale)
        for label in range(4):
            for column, number in enumerate((obtained == label).nonzero().flatten()[:10].tolist()):
                shown = picture.getpixel(((column * 9 + 5) * scale, (label * 9 + 2) * scale))
                assert shown == (int(desk.images[number, 0, 2, 5]),) * 3


def test_verify_says_that_a_set_is_whole(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for where in (desk.set, desk.reference):
        assert desk.call(monkeypatch, "verify", where) == 0
        assert "whole; 2 shards, 84 images to train on, 9 held out" in capsys.readouterr().out


def flip(desk: Desk) -> None:
    data = bytearray(desk.shard("holdout").read_bytes())
    data[-1] ^= 1
    desk.shard("holdout").write_bytes(data)


def cut(desk: Desk) -> None:
    desk.shard().write_bytes(desk.shard().read_bytes()[:-100])


def lose(desk: Desk) -> None:
    desk.shard().unlink()


def edit(desk: Desk) -> None:
    manifest = desk.set / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"images": 84,', '"images": 85,', 1))


def replace(desk: Desk) -> None:
    manifest = desk.set / "manifest.json"
    document = json.loads(manifest.read_bytes())
    manifest.write_bytes(seal({**document, "shortfall": [number + 1 for number in document["shortfall"]]}))


DAMAGES = {
    flip: "is damaged",
    cut: "is damaged",
    lose: "is missing from the set",
    edit: "is damaged: its bytes fail the sha256",
    replace: "as referred to",
}
# inspect and export read the training images only
CASES = [
    (command, damage) for command in ("verify", "inspect", "export") for damage in DAMAGES if command == "verify" or damage is not flip
]


@pytest.mark.parametrize(("command", "damage"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_damage_is_one_sentence_and_exit_1(
    command: str, damage: Callable[[Desk], None], desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(desk)
    out = desk.folder / "out"
    more = {"verify": [], "inspect": ["--grid", out], "export": ["--format", "imagefolder", "--out", out]}[command]
    assert desk.call(monkeypatch, command, desk.reference, *more) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("distillery: ")
    assert DAMAGES[damage] in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not out.exists()


def test_wrong_places_are_one_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command, *more in (["verify"], ["inspect"], ["export", "--format", "imagefolder", "--out", desk.folder / "out"]):
        assert desk.call(monkeypatch, command, desk.folder / "nowhere", *more) == 1
        assert "No synthetic set is published at" in capsys.readouterr().err
    other = desk.folder / "other"
    save_classifier(other, tiny_teacher(steps=1), TINY, Provenance(code_version="c"))
    assert desk.call(monkeypatch, "inspect", desk.set, "--teacher", other) == 1
    assert "was made with the teacher" in capsys.readouterr().err
    assert desk.call(monkeypatch, "export", desk.set, "--format", "zip", "--out", desk.folder / "out") == 1
    assert "export.format = 'zip' is not allowed" in capsys.readouterr().err


def test_export_names_folders_by_the_teacher(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = desk.folder / "out"
    assert desk.call(monkeypatch, "export", desk.set, "--format", "imagefolder", "--out", out, "--teacher", desk.teacher) == 0
    assert "84 images" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(CLASSES)
    assert desk.call(monkeypatch, "export", desk.set, "--format", "webdataset", "--out", out) == 1
    assert "not an empty folder" in capsys.readouterr().err
    words = ["--format", "webdataset", "--out", desk.folder / "tars", "--role", "holdout", "--shard-size", 5]
    assert desk.call(monkeypatch, "export", desk.reference, *words) == 0
    assert sorted(path.name for path in (desk.folder / "tars").glob("*.tar")) == ["holdout-000000.tar", "holdout-000001.tar"]
