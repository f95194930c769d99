"""`predict` and `export-student` as a user types them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.documents import seal
from distillery.evaluation.report import load_report, read_origin
from distillery.models import bundle as bundles
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture
from distillery.provenance import Provenance, sha256_file
from distillery_kfp.pipelines.cli import app as cli
from fakes import CLASSES, SPEC, quadrants, tiny_teacher


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "b"
    architecture = Architecture(name="wrn_10_1", arguments={"base_width": 8})
    save_classifier(folder, tiny_teacher(), architecture, Provenance(code_version="0" * 64))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[list[Path], list[str]]:
    """One PNG of each quadrant, and its class."""
    images, labels = quadrants(24, torch.Generator().manual_seed(3))
    paths, names = [], []
    for quadrant in range(4):
        index = int((labels == quadrant).nonzero()[0])
        pixels = (images[index, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{quadrant}.png")
        paths.append(tmp_path / f"{quadrant}.png")
        names.append(CLASSES[quadrant])
    return paths, names


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["distillery", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_predict_names_each_picture(
    bundle: Path, pictures: tuple[list[Path], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, names = pictures
    assert command(monkeypatch, "predict", bundle, *paths, "--json", "--top", 9) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bundle_sha256"] == sha256_file(bundle / "bundle.json")
    assert [row["image"] for row in said["images"]] == [str(path) for path in paths]
    assert [row["classes"][0]["name"] for row in said["images"]] == names
    for row in said["images"]:
        assert sum(item["probability"] for item in row["classes"]) == pytest.approx(1, abs=1e-6)
        assert [CLASSES[item["index"]] for item in row["classes"]] == [item["name"] for item in row["classes"]]


def test_evaluate_writes_a_report_that_names_both_bundles_and_opens_each_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    fetch = bundles.fetch_bundle
    monkeypatch.setattr(bundles, "fetch_bundle", lambda uri, folder: (fetched.append(uri), fetch(uri, folder))[1])
    images, labels = quadrants(8, torch.Generator().manual_seed(3))
    np.savez(tmp_path / "test.npz", images=(images * 255).round().to(torch.uint8).numpy(), labels=labels.numpy())
    other = shutil.copytree(bundle, tmp_path / "teacher")
    words = ("evaluate", bundle, "--teacher", other, "--data", tmp_path / "test.npz", "--json", tmp_path / "report.json")
    assert command(monkeypatch, *words) == 0
    assert sorted(fetched) == sorted([str(bundle), str(other)])
    sha256 = sha256_file(bundle / "bundle.json")
    assert read_origin(tmp_path / "report.json").inputs == {"teacher": sha256, "student": sha256}
    assert load_report(tmp_path / "report.json").student.sha256 == sha256


def test_predict_shows_a_table(
    bundle: Path,
    pictures: tuple[list[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    paths, names = pictures
    colour = tmp_path / "colour [red].png"
    Image.open(paths[0]).convert("RGB").resize((16, 16)).save(colour)
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "predict", bundle, paths[1].name, colour.name, "--top", 2, "--resize") == 0
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if "1.png" in line)
    second = next(line for line in out.splitlines() if "colour [red].png" in line)
    assert names[1] in first
    assert first.count("%") == 2
    assert "RGB -> grey, 16 x 16 -> 8 x 8" in second


def test_predict_reads_npz(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 8, 8), np.uint8))
    assert command(monkeypatch, "predict", bundle, tmp_path / "a.npz", "--json", "--top", 1) == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 5


def flipped(bundle: Path, folder: Path, name: str, place: int) -> Path:
    """A copy of the bundle with one bit of one byte changed."""
    (folder / "flipped").mkdir()
    for path in bundle.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == name:
            data[place] ^= 1
        (folder / "flipped" / path.name).write_bytes(data)
    return folder / "flipped"


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("distillery: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "words", [["predict", "BUNDLE", "0.png"], ["export-student", "BUNDLE", "--out", "out"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize(
    ("name", "place"),
    [("weights.safetensors", -1), ("weights.safetensors", 9), ("weights.safetensors", 2000), ("bundle.json", 0), ("bundle.json", -100)],
)
def test_one_changed_byte_is_one_sentence(
    words: list[str],
    name: str,
    place: int,
    bundle: Path,
    pictures: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = flipped(bundle, tmp_path, name, place)
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *(broken if word == "BUNDLE" else word for word in words)) == 1
    assert "damaged" in one_sentence(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [["predict", "BUNDLE", "0.png"], ["export-student", "BUNDLE", "--out", "out"]], ids=lambda words: words[0]
)
def test_a_document_that_somebody_rewrote_whole_is_found_by_the_pinned_hash(
    words: list[str], bundle: Path, pictures: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    document = json.loads((bundle / "bundle.json").read_bytes())
    (broken / "bundle.json").write_bytes(seal({**document, "class_names": document["class_names"][::-1]}))
    pinned = sha256_file(bundle / "bundle.json")
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *(broken if word == "BUNDLE" else word for word in words), "--sha256", pinned) == 1
    assert f"but {pinned} was asked for" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [
        ("RGB", (9, 8), r"is 9 x 8 pixels (width x height), but the classifier expects 8 x 8: resize it, or give --resize"),
        ("F", (8, 8), "has pixels of mode F: save it as grey or RGB"),
    ],
)
def test_predict_refuses_a_picture_that_does_not_fit(
    mode: str,
    size: tuple[int, int],
    said: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new(mode, size).save(tmp_path / "a.tif")
    assert command(monkeypatch, "predict", bundle, tmp_path / "a.tif") == 1
    assert said in one_sentence(capsys)


def test_predict_of_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((0, 1, 8, 8), np.uint8))
    assert command(monkeypatch, "predict", bundle, tmp_path / "a.npz") == 1
    assert "N above 0" in one_sentence(capsys)
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, "predict", bundle, tmp_path / "empty") == 1
    assert "holds no pictures" in one_sentence(capsys)


def test_export_student_writes_files_and_their_card(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "export-student", bundle, "--out", tmp_path / "out", "--format", "pt2", "--input", "uint8") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "model-card.md", "student.uint8.pt2"]
    digest = sha256_file(tmp_path / "out" / "student.uint8.pt2")
    assert digest in capsys.readouterr().out
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert f"| student.uint8.pt2 | `{digest}` |" in card
    assert "top left, top right" in card
    extra = {"distillery.json": ""}
    module = torch.export.load(tmp_path / "out" / "student.uint8.pt2", extra_files=extra).module()
    assert module(torch.zeros(3, *SPEC.shape, dtype=torch.uint8)).shape == (3, 4)
    assert json.loads(extra["distillery.json"])["class_names"] == list(CLASSES)


def test_a_report_of_another_student_stops_the_export_before_it_starts(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text("{}")
    assert command(monkeypatch, "export-student", bundle, "--out", tmp_path / "out", "--report", tmp_path / "report.json") == 1
    assert "is not a distillery-evaluation file" in one_sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_evaluate_takes_bundles_by_uri(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = quadrants(8, torch.Generator().manual_seed(3))
    np.savez(tmp_path / "d.npz", images=(images.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), labels=labels.numpy())
    report = tmp_path / "report.json"
    words = (bundle.as_uri(), "--teacher", bundle.as_uri(), "--data", tmp_path / "d.npz", "--json", report)
    assert command(monkeypatch, "evaluate", *words) == 0
    assert json.loads(report.read_bytes())["provenance"]["inputs"] == dict.fromkeys(
        ("teacher", "student"), sha256_file(bundle / "bundle.json")
    )
