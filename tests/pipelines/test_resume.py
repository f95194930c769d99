"""A run that is stopped, looked at, pruned beside, and resumed from its record alone ends as one left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.models.catalog import Architecture
from distillery.provenance import Provenance, code_version
from distillery.step_table import STEPS
from distillery.steps import distill_online, extract_statistics, plan

ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DISTILLERY_", "KFP_"))}, "OMP_NUM_THREADS": "1"}
ROUNDS = {"synthesis.rounds": 120}
pytestmark = pytest.mark.timeout(600)


def distillery(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*commands.distillery(), *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def listed(store: Path) -> dict[str, object]:
    (row,) = json.loads(distillery("runs", "--store", store, "--json").stdout)
    return dict(row)


def stop_amid(desk: Path, recipe: Path, store: Path, work: Path) -> None:
    words = ["run", str(recipe), "--teacher", str(desk / "teacher"), "--data", str(desk / "test.npz"), "--seed", "5"]
    places = ["--store", str(store), "--workdir", str(work), "--threads", "1", "--set", "synthesis.rounds=120"]
    run = subprocess.Popen(
        [sys.executable, "-m", commands.APP, *words, *places], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 200
    while not list(store.glob("checkpoints/distill_online/*/latest.json")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert listed(store)["state"] == "running"
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=120) == 143


def student_left_alone(desk: Path, recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {"DISTILLERY_STORE": folder / "store", "DISTILLERY_WORKDIR": folder / "work", "DISTILLERY_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    teacher = str(desk / "teacher")
    form = {"run_recipe_uri": str(recipe), "run_overrides": ROUNDS, "run_seed": 5, "teacher_uri": teacher}
    sections = plan.run("online_distillation", form)
    for step in (extract_statistics, distill_online):
        row = STEPS[step.STEP]
        inputs = step.Inputs(teacher_uri=teacher, **{name: folder / name for name in row.reads})
        step.run(sections[row.section], inputs, step.Outputs(**{name: folder / name for name in row.writes}))
    return read_bundle(folder / "student")[1]


def refuse_another_teacher(desk: Path, stopped: Path, work: Path, folder: Path) -> None:
    """On a copy of the store: the refusal keeps the run, until it is given up."""
    store, other, classifier = folder / "copy", folder / "teacher", load_classifier(desk / "teacher")
    shutil.copytree(stopped, store)
    classifier.class_names = ("z", "b", "c")
    save_classifier(other, classifier, Architecture(name="wrn_10_1"), Provenance(code_version=code_version()))
    said = distillery("resume", "last", "--store", store, "--teacher", other, code=1)
    assert "teacher_sha256 asks for" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    row = listed(store)
    assert row["state"] == "failed"
    assert "teacher_sha256 asks for" in str(row["message"])
    assert list(store.glob("checkpoints/distill_online/*/latest.json"))
    given_up = distillery("prune", "--store", store, "--workdir", work, "--forget", row["run"], "--yes").stdout
    assert "record of a run that is given up" in given_up
    assert not list(store.rglob("*.pt"))
    assert json.loads(distillery("runs", "--store", store, "--json").stdout) == []


def test_resume_ends_as_a_run_left_alone(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, work, recipe = tmp_path / "store", tmp_path / "work", tmp_path / "own.yaml"
    recipe.write_text((desk / "online.yaml").read_text())
    stop_amid(desk, recipe, store, work)
    row = listed(store)
    assert (row["state"], row["recipe"], row["seed"]) == ("stopped", "own", 5)

    before = sorted(store.rglob("*"))
    shown = distillery("prune", "--store", store, "--workdir", work, "--yes").stdout
    assert shown == "Nothing to drop: everything is referred to.\n"
    assert sorted(store.rglob("*")) == before
    (pointer,) = store.glob("checkpoints/distill_online/*/latest.json")
    done = json.loads(pointer.read_bytes())["round"]
    assert 0 < done < 120

    refuse_another_teacher(desk, store, work, tmp_path)
    expected = student_left_alone(desk, recipe, tmp_path / "alone", monkeypatch)
    recipe.write_text("extends: fast_dfkd/digits\n")  # the record alone counts
    said = distillery("resume", "last", "--store", store)
    assert "its recipe is taken from its record" in said.stderr
    finished = listed(store)
    assert (finished["run"], finished["state"]) == (row["run"], "finished")
    assert Path(str(finished["student"])).name == expected
    assert finished["student_top1"] is not None
    assert "is finished" in distillery("resume", row["run"], "--store", store, code=1).stderr

    dropped = distillery("prune", "--store", store, "--workdir", work, "--yes").stdout
    assert "Kubeflow's own copies" in dropped
    assert not list((work / "kfp").glob(str(row["run"])))
    distillery("verify", finished["set"])
    assert listed(store) == finished
    assert "Nothing to drop" in distillery("prune", "--store", store, "--workdir", work).stdout
