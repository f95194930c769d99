"""`distillery train-student` as a user calls it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from distillery import ProgressEvent, evaluate
from distillery.data.manifest import SetHeader
from distillery.data.ood import load_ood
from distillery.data.store import SetWriter
from distillery.errors import ConfigError
from distillery.methods.catalog import find_method
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.provenance import Provenance
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.storage import FolderStore
from distillery.synthesis.bundle import SynthesizerState, save_synthesizer
from distillery.workbench.assembly import PlannedMethod
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.cli.bar import bar
from distillery_kfp.pipelines.runner.local import RunRequest
from fakes import SPEC, TINY, FakeSynthesizer, quadrants, tiny_teacher
from sets import publish_set

PROVENANCE = Provenance(code_version="1")
CONFIG = {"generator": {"name": "conditional", "condition": "one_hot", "latent": 8, "width": 4}}
RECIPE = """
extends: ls_gdfd/digits
expects: {channels: 1, height: 8, width: 8, classes: 4}
precision: float32
set: {size: 24}
student:
  architecture: {name: wrn_10_1, arguments: {base_width: 8}}
  stages: [{epochs: 2, batch: 8, objectives: [{name: kd, temperature: 4}]}]
"""


class Desk:
    """A recipe, a teacher, and one of each source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe, self.teacher, self.out = folder / "mine.yaml", folder / "teacher", folder / "students" / "one"
        self.recipe.write_text(RECIPE)
        classifier = tiny_teacher(steps=10)
        sha256 = save_classifier(self.teacher, classifier, TINY, PROVENANCE)
        images, labels = quadrants(32, torch.Generator().manual_seed(0))
        pixels = (images * 255).round().to(torch.uint8)
        writer = SetWriter(
            FolderStore(folder / "set"), SetHeader(shape=(1, 8, 8), num_classes=4, teacher_sha256=sha256, provenance=PROVENANCE)
        )
        with torch.no_grad():
            writer.append(pixels, None, classifier(images))
        publish_set(writer)
        np.savez(folder / "real.npz", images=pixels.numpy(), labels=labels.numpy())
        save_moments(folder / "moments", global_moments(load_classifier(self.teacher), sha256), PROVENANCE)
        config = find_method("ls_gdfd").load()[1].parse(CONFIG).to_json()
        save_synthesizer(
            folder / "synthesizer", SynthesizerState("ls_gdfd", config, sha256, FakeSynthesizer(classifier).state_dict()), PROVENANCE
        )
        self.sources: dict[str, list[object]] = {
            "set": ["--images", folder / "set"],
            "live": ["--synthesizer", folder / "synthesizer", "--statistics", folder / "moments"],
            "real": ["--images", folder / "real.npz"],
        }

    def call(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
        command = ["train-student", self.recipe, "--teacher", self.teacher, "--out", self.out, "--device", "cpu", *words]
        monkeypatch.setattr(sys, "argv", ["distillery", *map(str, command)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(
        PlannedMethod,
        "build",
        lambda plan, teacher, runtime, seed, turns=1, ood=None, share=None: FakeSynthesizer(teacher.classifier, seed),
    )
    return Desk(tmp_path)


@pytest.mark.parametrize(("source", "named"), [("set", "set"), ("live", "synthesizer"), ("real", "data")])
def test_a_student_from_each_source(
    source: str, named: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    assert desk.call(monkeypatch, *desk.sources[source], "--seed", 5, "--set", "student.stages.0.objectives.0.hard=0.5") == 0
    assert dict(os.environ) == before
    said = capsys.readouterr().out
    made = json.loads((desk.out / "bundle.json").read_bytes())["provenance"]
    assert named in made["inputs"]
    assert made["seeds"] == {"run": 5}
    (stage,) = made["config"]["student"]["stages"]
    assert stage["objectives"][0] == {"name": "kd", "temperature": 4.0, "soft": 1.0, "hard": 0.5}
    assert stage["steps_per_epoch"] == (3 if source == "live" else 0), "a pass over the recipe's set, where images never end"
    assert "student/kd" in said
    assert "student/ce" in said
    work = desk.out.parent / ".distillery"
    assert work.is_dir()
    assert sorted(path.name for path in desk.out.parent.iterdir()) == [".distillery", "one"], "nothing half made is left"
    first = (desk.out / "bundle.json").read_bytes()
    assert desk.call(monkeypatch, *desk.sources[source], "--seed", 5, "--set", "student.stages.0.objectives.0.hard=0.5") == 0
    assert (desk.out / "bundle.json").read_bytes() == first


@pytest.mark.parametrize("source", ["set", "live", "real"])
def test_images_of_another_domain_beside_each_source(source: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(desk.folder / "others.npz", images=np.zeros((4, 8, 8), dtype=np.uint8))
    words = ["--ood", desk.folder / "others.npz", "--set", "student.stages.0.ood_share=0.5"]
    assert desk.call(monkeypatch, *desk.sources[source], *words) == 0
    made = json.loads((desk.out / "bundle.json").read_bytes())["provenance"]
    assert made["inputs"]["ood"] == made["config"]["ood_sha256"] == load_ood(str(desk.folder / "others.npz"), SPEC).digest


def test_a_student_begins_with_another_s_weights(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.folder / "first"
    assert desk.call(monkeypatch, *desk.sources["real"], "--student-method", "fsp-alone", "--out", first) == 0
    assert desk.call(monkeypatch, *desk.sources["real"], "--student-start", first) == 0
    made = json.loads((desk.out / "bundle.json").read_bytes())["provenance"]
    assert made["inputs"]["student_start"] == made["config"]["student_start_sha256"] == read_bundle(first)[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--images", "real.npz", "--student-start", "nowhere"], "There is no bundle at 'nowhere'"),
        (["--images", "real.npz", "--student-start", "teacher", "--set", "student.architecture.arguments.base_width=4"], "are of"),
        (["--images", "real.npz", "--ood", "real.npz"], "are for nobody: the method learns from none and no stage of the student has an"),
        (["--images", "real.npz", "--set", "student.stages.0.ood_share=0.5"], "none are given: give some as --ood"),
        ([], "A student trains on one source, not none: give exactly one of --images, --synthesizer."),
        (["--images", "set", "--synthesizer", "synthesizer"], "not --images and --synthesizer: give exactly one of"),
        (["--images", "real.npz", "--statistics", "moments"], "are only read for a synthesizer"),
        (["--synthesizer", "synthesizer"], "needs the teacher's statistics"),
        (["--synthesizer", "nowhere"], "There is no synthesizer bundle"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "nowhere.npz"], "nowhere.npz"),
        (["--images", "real.npz", "--set", "expects.classes=10"], "expects a teacher with classes = 10"),
        (["--images", "real.npz", "--device", "gpu"], "device = 'gpu' is not allowed"),
        (["--images", "real.npz", "--seed", "-1"], "seed"),
        (["--images", "real.npz", "--out", "real.npz"], "--out"),
        (["--images", "real.npz", "--out", "set"], "holds something that is no bundle"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str], sentence: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk.folder)
    assert desk.call(monkeypatch, *words) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("distillery: ")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not desk.out.exists()
    assert (desk.folder / "set" / "manifest.json").is_file()


def test_help_says_that_real_data_is_the_ceiling() -> None:
    said = " ".join(CliRunner().invoke(cli.app, ["train-student", "--help"], env={"COLUMNS": "200"}).output.replace("│", " ").split())
    assert "the ceiling" in said
    assert "data owner" in said


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cpu:0"])
def test_a_run_on_no_device_is_refused_before_anything_starts(device: str, desk: Desk) -> None:
    places = {"store": str(desk.folder / "store"), "workdir": desk.folder / "work"}
    request: dict[str, Any] = {"recipe": str(desk.recipe), "teacher": str(desk.teacher), **places}
    with pytest.raises(ConfigError, match="choose auto, cpu, cuda or cuda:N"):
        RunRequest(**request, device=device)
    for allowed in ("", "auto", "cpu", "cuda", "cuda:1"):
        RunRequest(**request, device=allowed)


def test_evaluate_is_told_how_far_it_is(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[ProgressEvent] = []
    evaluate(desk.teacher, desk.teacher, desk.folder / "real.npz", device="cpu", progress=told.append)
    assert (told[-1].done, told[-1].total) == (32, 32)
    with bar() as tell:
        tell("nobody watches", 1, 2)
    assert capsys.readouterr() == ("", "")
