"""A folder of pictures as people have them, through every door that reads pictures: the same pixels, and the same count as `find`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from distillery import evaluate
from distillery.data.pictures import find_pictures, read_pictures
from distillery.data.real import LabelledImages, load_labelled
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.seeding import seeded
from distillery.steps.import_teacher import answer
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.cli import app as cli

SIZE = 16
SPEC = ImageSpec(channels=3, height=SIZE, width=SIZE, mean=(0.5,) * 3, std=(0.3,) * 3)
CLASSES = ("cat", "猫 house", "Ёж")
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def awkward(root: Path) -> Path:
    """Three class folders with every kind of picture, one of them a link, and what lies between."""
    data = root / "data"
    cat, house = data / "cat", root / "elsewhere"
    hedgehog = data / "Ёж".lower()
    for folder in (cat, house, hedgehog, data / "empty", cat / ".ipynb_checkpoints", data / "__MACOSX"):
        folder.mkdir(parents=True)
    (data / "猫_house").symlink_to(house)
    colour, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    for orientation in range(1, 9):
        colour.save(cat / f"turned {orientation}.JPG", quality=95, exif=exif(orientation))
    clear = colour.convert("RGBA")
    clear.putpixel((3, 3), (0, 0, 0, 0))
    clear.save(house / "alpha.png")
    Image.merge("LA", (grey, Image.fromarray(RGB[..., 1]))).save(house / "grey alpha.PNG")
    colour.quantize(8).save(house / "palette.png")
    colour.quantize(8).save(house / "palette.gif", transparency=1)
    colour.convert("CMYK").save(house / "print.jpeg")
    colour.convert("CMYK").save(house / "print.tif")
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(hedgehog / "deep.png")
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(hedgehog / "deep.TIFF")
    Image.fromarray(RGB[..., 0] > 99).save(hedgehog / "bits.bmp")
    colour.save(hedgehog / "кадр.webp", lossless=True)
    colour.save(hedgehog / "rare.jp2")
    colour.save(hedgehog / "rare.QOI" if ".qoi" in Image.registered_extensions() else hedgehog / "rare.pnm")
    colour.save(hedgehog / "no ending", "PNG")
    (hedgehog / os.fsdecode(b"caf\xe9.png")).symlink_to(house / "alpha.png")
    frames = [grey, Image.fromarray(255 - RGB[..., 0])]
    frames[0].save(hedgehog / "film.gif", save_all=True, append_images=frames[1:])
    (cat / ".ipynb_checkpoints" / "a-checkpoint.png").write_bytes((house / "alpha.png").read_bytes())
    for name in (".DS_Store", "__MACOSX/._a.png", "cat/Thumbs.db", "cat/notes.txt", "classes.txt"):
        (data / name).write_bytes(b"\0\0\0\1 nothing to see")
    return data


def bundle(folder: Path, images: Tensor) -> Classifier:
    """A network that has learned nothing, and gives different answers for some images."""
    architecture = Architecture(name="resnet8")
    with seeded(3, "teacher"):
        classifier = Classifier(build_network(architecture, SPEC, len(CLASSES)), SPEC, CLASSES).freeze()
    classifier.network.head.bias -= classifier(images.float() / 255).mean(dim=0)
    save_classifier(folder, classifier, architecture, Provenance(code_version="1"))
    return classifier


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return awkward(tmp_path_factory.mktemp("awkward"))


@pytest.fixture(scope="module")
def loaded(data: Path) -> LabelledImages:
    return load_labelled(str(data), CLASSES, SPEC)


def test_the_same_pixels_through_both_readers(data: Path, loaded: LabelledImages) -> None:
    files, left_out = find_pictures([data])
    pictures = list(read_pictures(files, SPEC))
    assert torch.equal(torch.stack([picture.pixels for picture in pictures]), loaded.images)
    assert loaded.labels.bincount().tolist() == [8, 6, 9]
    turned = loaded.images[loaded.labels == 0]
    assert all(torch.equal(image, turned[0]) for image in turned) is False  # as they lie in their files they differ
    assert len(left_out) == 6


def test_what_is_read_and_what_is_skipped_is_all_that_find_counts(data: Path, loaded: LabelledImages) -> None:
    counted = subprocess.run(["find", "-L", str(data), "-type", "f", "-print0"], capture_output=True, check=True).stdout.count(b"\0")
    assert loaded.notes[0].startswith("skipped 4 hidden files ('.DS_Store', '__MACOSX/._a.png', 'cat/.ipynb_checkpoints/a-checkpoint.png'")
    assert loaded.notes[0].endswith("and 2 files that are no pictures ('cat/notes.txt', 'classes.txt')")
    assert loaded.notes[2] == (
        "of 23 pictures some changed: 16 bits -> 8 (2), CMYK -> RGB (2), laid on white (4), rotated as its EXIF says (7), "
        "the first of 2 frames (1)"
    )
    assert loaded.notes[1] == "no picture in 'empty'"
    assert len(loaded) + 4 + 2 == counted


def test_predict_evaluate_and_check_agree(data: Path, loaded: LabelledImages, tmp_path: Path) -> None:
    teacher = bundle(tmp_path / "teacher", loaded.images)
    bundle(tmp_path / "student", loaded.images)
    shown = CliRunner().invoke(cli.app, ["predict", str(tmp_path / "teacher"), str(data), "--json"])
    assert shown.exit_code == 0, shown.output
    found: dict[str, Any] = json.loads(shown.stdout)
    guesses = [row["classes"][0]["index"] for row in found["images"]]
    right = sum(guess == label for guess, label in zip(guesses, loaded.labels.tolist(), strict=True))
    assert len(set(guesses)) > 1
    report = evaluate(tmp_path / "student", tmp_path / "teacher", data, threads=1)
    assert (report.images, report.teacher.accuracy.correct) == (len(loaded), right)
    assert answer(teacher, loaded.images).tolist() == guesses
    assert len(found["skipped"]) == 6


def test_predict_shows_names_in_any_encoding(data: Path, loaded: LabelledImages, tmp_path: Path) -> None:
    bundle(tmp_path / "teacher", loaded.images)
    shown = CliRunner().invoke(cli.app, ["predict", str(tmp_path / "teacher"), str(data)])
    assert shown.exit_code == 0, shown.output
    assert "caf\\xe9.png" in shown.output.replace("\n", "")
