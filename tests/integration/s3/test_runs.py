"""Whole runs on a bucket: the same student as on a folder, bit for bit, and a refusal before anything is started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery import distill
from distillery.data.store import SyntheticSet
from distillery.models.bundle import read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.storage import open_store
from distillery.storage.s3 import S3Store
from distillery.types import Classifier, ImageSpec
from s3_requests import counting
from s3_servers import environment, free_port

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is read from a bucket here, in no step's workspace, keeps its cache below the present folder."""
    monkeypatch.chdir(tmp_path)


ONLINE = {
    "synthesis.rounds": 3,
    "synthesis.student_steps_per_turn": 2,
    "synthesis.config.batch": 16,
    "synthesis.config.steps": 2,
    "synthesis.config.warmup": 1,
    "student.stages.0.epochs": 2,
    "student.stages.0.steps_per_epoch": 2,
}
OFFLINE = {
    "synthesis.rounds": 2,
    "synthesis.config.steps_per_round": 2,
    "synthesis.config.batch": 16,
    "set.size": 40,
    "set.shard_images": 16,
    "set.max_oversampling": 2.0,
    "student.stages.0.epochs": 2,
    "student.stages.0.steps_per_epoch": 2,
}
SHORT = {"evaluation.latency": False}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    architecture = Architecture(name="wrn_16_1")
    spec = ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.3,))
    names = tuple(str(digit) for digit in range(10))
    classifier = Classifier(build_network(architecture, spec, 10), spec, names)
    save_classifier(tmp_path / "teacher", classifier, architecture, Provenance(code_version=code_version()))
    return tmp_path / "teacher"


def upload(folder: Path, store: S3Store) -> str:
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())
    return store.uri


@pytest.mark.parametrize(("recipe", "overrides"), [("fast_dfkd/digits", ONLINE), ("ls_gdfd/digits", OFFLINE)])
def test_a_bucket_gives_the_student_that_a_folder_gives(
    real_bucket: str, teacher: Path, tmp_path: Path, recipe: str, overrides: dict[str, object]
) -> None:
    there = f"s3://{real_bucket}/store"
    uri = upload(teacher, S3Store(real_bucket, "teacher"))
    overrides = {**overrides, **SHORT}
    near = distill(teacher, recipe, tmp_path / "near", overrides=overrides)
    far = distill(uri, recipe, tmp_path / "far", overrides=overrides, store=there)
    assert read_bundle(far.student)[1] == read_bundle(near.student)[1]
    references = [json.loads((run.set / "reference.json").read_bytes()) for run in (near, far)]
    assert references[0]["sha256"] == references[1]["sha256"]
    assert references[1]["uri"].startswith(f"{there}/sets/")
    SyntheticSet.open(references[1]["uri"]).verify()
    before = set(open_store(there).list())
    with counting() as seen:
        again = distill(uri, recipe, tmp_path / "again", overrides=overrides, store=there)
    assert read_bundle(again.student)[1] == read_bundle(near.student)[1]
    # only the run's own records: all other work was found done by a machine that shares nothing but the bucket
    fresh = set(open_store(there).list()) - before
    assert {"/".join(key.split("/")[:2]) for key in fresh} == {f"runs/{again.run_id}"}
    assert seen["PutObject"] == len(fresh) + 2  # the plan's record gets its results, and who is first with an evaluation asks twice
    assert not [key for key in open_store(there).list() if key.endswith("latest.json") or "payloads/" in key]


def command(teacher: str, store: str, tmp_path: Path, *more: str) -> list[str]:
    settings = [word for name, value in {**ONLINE, **SHORT}.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    run = [sys.executable, "-m", "distillery_kfp.pipelines.cli.app", "run", "fast_dfkd/digits", "--teacher", teacher, "--store", store]
    return [*run, "--workdir", str(tmp_path / "work"), *settings, *more]


def test_the_command_line_runs_on_a_bucket(real_bucket: str, teacher: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=np.zeros((20, 1, 16, 16), np.uint8), labels=np.arange(20) % 10)
    uri, store = upload(teacher, S3Store(real_bucket, "teacher")), open_store(f"s3://{real_bucket}/store")
    words = command(uri, store.uri, tmp_path, "--data", str(tmp_path / "test.npz"))
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (key for key in store.list("runs") if key.endswith("run.json"))
    results = json.loads(store.read(record))["results"]
    assert store.exists(results["evaluation"])
    assert f"{store.uri}/{results['student']}" in done.stdout
    folder = tmp_path / "student"
    folder.mkdir()
    for name in ("bundle.json", "weights.safetensors"):
        (folder / name).write_bytes(store.read(f"{results['student']}/{name}"))
    assert f"students/{read_bundle(folder)[1]}" == results["student"]
    assert torch.numel(SyntheticSet.open(f"{store.uri}/{results['dataset']['place']}").load().images) > 0


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path, teacher: Path) -> None:
    unreachable = {**os.environ, **environment(f"http://127.0.0.1:{free_port()}"), "DISTILLERY_S3_PATIENCE": "1"}
    words = command(str(teacher), "s3://bucket/store", tmp_path)
    done = subprocess.run(words, capture_output=True, text=True, env=unreachable, check=False)
    assert done.returncode == 1
    assert "cannot be reached; check AWS_ENDPOINT_URL_S3 and the network" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()
