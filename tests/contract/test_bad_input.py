"""Bad input: exit code 1, one sentence on stderr, no traceback, and a store whose tree is as it was."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import distillery
from distillery.api.running import run_step
from distillery.errors import CheckpointMismatchError, DistilleryError, MissingResourceError, StoreError
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.types import Classifier, ImageSpec

RECIPE = """
extends: fast_dfkd/digits
expects: {channels: 1, height: 8, width: 8, classes: 3}
"""
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Desk:
    """A folder with recipe.yaml, teacher/, test.npz and a store that already holds something."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def tree(self) -> dict[str, str]:
        paths = sorted(self.store.rglob("*"))
        return {
            str(path.relative_to(self.store)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths
        }


def write_teacher(folder: Path, architecture: Architecture, size: int = 8) -> Classifier:
    spec = ImageSpec(channels=1, height=size, width=size, mean=(0.5,), std=(0.5,))
    classifier = Classifier(build_network(architecture, spec, 3), spec, ("a", "b", "c"))
    save_classifier(folder, classifier, architecture, Provenance(code_version=code_version()))
    return classifier


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    write_teacher(tmp_path / "teacher", Architecture(name="wrn_10_1"))
    np.savez(tmp_path / "test.npz", images=np.zeros((6, 1, 8, 8), np.uint8), labels=np.arange(6) % 3)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "store" / "sets").mkdir(parents=True)
    (tmp_path / "store" / "sets" / "kept.json").write_text("{}")
    return Desk(tmp_path)


def damage(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


def without_batchnorm(desk: Desk) -> None:
    shutil.rmtree(desk.folder / "teacher")
    write_teacher(desk.folder / "teacher", Architecture(name="lenet5", arguments={"batch_norm": False}))


def of_newer_format(desk: Desk) -> None:
    path = desk.folder / "teacher" / "bundle.json"
    path.write_text(re.sub(r'"version": \d+', '"version": 99', path.read_text()))


def with_large_test_images(desk: Desk) -> None:
    np.savez(desk.folder / "test.npz", images=np.zeros((6, 1, 9, 9), np.uint8), labels=np.arange(6) % 3)


def nothing(desk: Desk) -> None:
    """The input is bad by its arguments alone."""


@dataclass(frozen=True)
class Case:
    """One bad input of `distillery run`: what is changed on the desk, the arguments beside the usual ones, words of the sentence."""

    words: tuple[str, ...]
    change: Callable[[Desk], None] = nothing
    recipe: str = "recipe.yaml"
    more: tuple[str, ...] = ()


CASES = {
    "unknown recipe": Case(("fast_dfkd/digitz", "did you mean 'fast_dfkd/digits'"), recipe="fast_dfkd/digitz"),
    "no such file": Case(("absent.yaml",), recipe="absent.yaml"),
    "unwritable store": Case(("regular file", "--store"), more=("--store", "recipe.yaml/store")),
    "unwritable workspace": Case(("regular file", "--workdir"), more=("--workdir", "recipe.yaml/work")),
    "path through a value": Case(("plain value",), more=("--set", "synthesis.rounds.x=1")),
    "unknown method": Case(("dafl",), more=("--set", "synthesis.method=dafl")),
    "unknown key": Case(("synthesis.config.stepz", "did you mean 'steps'"), more=("--set", "synthesis.config.stepz=3")),
    "wrong type": Case(("synthesis.rounds", "'many'"), more=("--set", "synthesis.rounds=many")),
    "damaged weights": Case(("sha256", "damaged"), lambda desk: damage(desk.folder / "teacher" / "weights.safetensors")),
    "class count": Case(("classes = 10", "classes = 3"), more=("--set", "expects.classes=10")),
    "image size": Case(("height = 16", "height = 8"), more=("--set", "expects.height=16")),
    "test image size": Case(("9",), with_large_test_images, more=("--data", "test.npz")),
    "no BatchNorm": Case(("BatchNorm", "fast_dfkd"), without_batchnorm),
    "newer format": Case(("version 99", "upgrade"), of_newer_format),
    "no teacher": Case(("absent",), more=("--teacher", "absent")),
    "too many images": Case(("images", "set.max_bytes = 1000"), more=("--set", "set.max_bytes=1000")),
}


@pytest.mark.parametrize("name", CASES)
def test_run_refuses(name: str, desk: Desk) -> None:
    case = CASES[name]
    case.change(desk)
    before = desk.tree()
    usual = ["--teacher", "teacher", "--store", "store", "--workdir", "work", "--threads", "1"]
    done = subprocess.run(
        [*distillery(), "run", case.recipe, *usual, *case.more],
        capture_output=True,
        text=True,
        cwd=desk.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("distillery: ")
    assert "Traceback" not in done.stdout + done.stderr
    assert all(word in done.stderr for word in case.words), done.stderr
    assert desk.tree() == before


def test_import_teacher_refuses_a_pickled_model(desk: Desk) -> None:
    torch.save(torch.nn.Linear(2, 2), desk.folder / "model.pt")
    settings = ["--architecture", "wrn_10_1", "--shape", "1,8,8", "--mean", "0.5", "--std", "0.5", "--classes", "3", "--out", "imported"]
    done = subprocess.run([*distillery(), "import-teacher", "model.pt", *settings], capture_output=True, text=True, cwd=desk.folder)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("distillery: ")
    assert not (desk.folder / "imported").exists()


def offline_sections(desk: Desk) -> dict[str, dict[str, object]]:
    from distillery.steps import plan

    small = {
        "expects": {"height": 8, "width": 8, "classes": 3},
        "synthesis": {"rounds": 2, "config": {"batch": 8, "steps_per_round": 1, "generator": {"latent": 8, "width": 8}}},
        "set": {"size": 12, "batch": 8, "holdout": 0.0},
        "student": {"architecture": {"arguments": {"base_width": 8}}, "stages": {"0": {"epochs": 1, "batch": 4}}},
    }
    form = {"run_recipe": "ls_gdfd/digits", "run_overrides": small, "teacher_uri": str(desk.folder / "teacher")}
    return plan.run("generative_distillation", form)


@pytest.fixture
def drawn(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> tuple[Desk, dict[str, dict[str, object]], Path]:
    """A desk on which the steps up to the synthetic set have run, their sections, and the folder with their outputs."""
    from distillery.step_table import STEPS
    from distillery.steps import extract_statistics, materialize, train_generator

    monkeypatch.setenv("DISTILLERY_STORE", str(desk.store))
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(desk.folder / "work"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
    teacher, out = str(desk.folder / "teacher"), desk.folder / "out"
    out.mkdir()
    sections = offline_sections(desk)
    for step in (extract_statistics, train_generator, materialize):
        row = STEPS[step.STEP]
        run_step(step.STEP, sections[row.section], {name: out / name for name in (*row.reads, *row.writes)}, {"teacher_uri": teacher})
    return desk, sections, out


def refuse(desk: Desk, step: Callable[[], object], *kinds: type[DistilleryError]) -> None:
    before = desk.tree()
    with pytest.raises(kinds) as error:
        step()
    assert "\n" not in str(error.value)
    assert desk.tree() == before


def test_steps_refuse_what_only_they_meet(drawn: tuple[Desk, dict[str, dict[str, object]], Path]) -> None:
    from distillery.steps import extract_statistics, train_generator, train_student

    desk, sections, out = drawn
    teacher = str(desk.folder / "teacher")

    def train() -> object:
        inputs = train_student.Inputs(teacher_uri=teacher, set=out / "set")
        return train_student.run(sections["student"], inputs, train_student.Outputs(student=out / "student"))

    def train_again(moments: str) -> object:
        inputs = train_generator.Inputs(teacher_uri=teacher, statistics=out / moments)
        return train_generator.run(sections["generator"], inputs, train_generator.Outputs(synthesizer=out / "again"))

    shard = next(path for path in sorted(desk.store.rglob("shards/*")) if path.is_file())
    whole = shard.read_bytes()
    damage(shard)
    refuse(desk, train, StoreError)
    shard.unlink()
    refuse(desk, train, MissingResourceError, StoreError)
    shard.write_bytes(whole)

    pointer = next(desk.store.glob("checkpoints/train_generator/*/result.json"))
    finished = pointer.read_bytes()
    pointer.write_bytes(finished[: len(finished) // 2])
    refuse(desk, lambda: train_again("statistics"), StoreError, CheckpointMismatchError)
    pointer.write_bytes(finished)

    moments = next(desk.store.glob("checkpoints/extract_statistics/*/outputs/statistics/*/file"))
    whole = moments.read_bytes()
    moments.write_bytes(whole[: len(whole) // 2])
    inputs, outputs = extract_statistics.Inputs(teacher_uri=teacher), extract_statistics.Outputs(statistics=out / "again")
    refuse(desk, lambda: extract_statistics.run(sections["statistics"], inputs, outputs), StoreError, CheckpointMismatchError)
    moments.write_bytes(whole)

    other = desk.folder / "other"
    torch.manual_seed(7)
    write_teacher(other, Architecture(name="wrn_10_1"))
    from distillery.models.bundle import read_bundle

    digest = read_bundle(other)[1]
    section, outputs = {**sections["statistics"], "teacher_sha256": digest}, extract_statistics.Outputs(statistics=out / "foreign")
    extract_statistics.run(section, extract_statistics.Inputs(teacher_uri=str(other)), outputs)
    refuse(desk, lambda: train_again("foreign"), CheckpointMismatchError)
