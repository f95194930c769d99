"""A run by the command, and the audit of what it left, by the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "distillery_kfp.pipelines.cli.app"]
KEPT = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DISTILLERY_", "KFP_"))}
pytestmark = pytest.mark.timeout(600)


def distillery(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**KEPT, "OMP_NUM_THREADS": "1", "DISTILLERY_WORKDIR": str(folder / "work")}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=environment, cwd=folder, check=False)


def test_a_run_leaves_a_chain_that_holds_until_a_byte_is_changed(desk: Path, tmp_path: Path) -> None:
    places = ["--store", str(tmp_path / "store"), "--workdir", str(tmp_path / "work"), "--threads", "1"]
    run = distillery(tmp_path, "run", str(desk / "offline.yaml"), "--teacher", str(desk / "teacher"), *places)
    assert run.returncode == 0, run.stderr

    shown = distillery(tmp_path, "audit", "distillery-student@champion", "--strict")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "9 links hold, none is broken" in shown.stdout
    (student,) = (tmp_path / "store" / "students").iterdir()
    links = json.loads(distillery(tmp_path, "audit", str(student), "--strict", "--json").stdout)
    assert [link["name"] for link in links] == ["student", "run", "set", "generator", "statistics", "teacher"]
    assert (links[0]["sha256"], {link["state"] for link in links}) == (student.name, {"ok"})

    shard = next((tmp_path / "store" / "sets").glob("*/shards/*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    broken = distillery(tmp_path, "audit", "distillery-student@champion")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith("distillery: The chain is broken at the set: the shard 'shards/")
    assert broken.stderr.count("\n") == 1
