"""The demo's split: a made-up demo whose seconds are known, watched as the real one is."""

import json
from pathlib import Path

import pytest

import demo_split

SLOW_STEP = """
import time
time.sleep(0.2)  # an import that takes long
STEP = "{name}"
def run(section):
    time.sleep(0.3)
    return {{}}
"""
CHILD = """
import subprocess, sys
for name in ("first", "second"):
    subprocess.run([sys.executable, "-c", f"from distillery.steps.{name} import run; run({{}})"], check=True)
"""
TOP = """
import subprocess, sys
held = bytearray(64 * 2**20)
subprocess.run([sys.executable, "-m", "made.pipelines.runner.child"], check=True)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    files = {
        "made/__init__.py": "",
        "made/top.py": TOP,
        "made/pipelines/__init__.py": "",
        "made/pipelines/runner/__init__.py": "",
        "made/pipelines/runner/child.py": CHILD,
    }
    files |= {"distillery/__init__.py": "", "distillery/steps/__init__.py": ""}
    files |= {f"distillery/steps/{name}.py": SLOW_STEP.format(name=name) for name in ("first", "second")}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "made.top"


def test_seconds_fall_into_start_up_imports_and_work(made: str, tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    assert demo_split.main(["--module", made, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["run 1: runner", "run 1: first", "run 1: second", "demo: teacher, noise, table"]
    for name in ("run 1: first", "run 1: second"):
        assert rows[name]["imports"] >= 0.2
        assert rows[name]["work"] >= 0.3
    assert rows["run 1: runner"]["work"] < record["seconds"] - 1.0 + 0.1, "its steps are not its own time"
    for row in rows.values():
        assert row["start_up"] + row["imports"] + row["work"] == pytest.approx(row["total"], abs=0.05)
    assert sum(row["total"] for row in rows.values()) == pytest.approx(record["seconds"], abs=0.5)
    assert 0.0625 < rows["demo: teacher, noise, table"]["rss_gib"] <= record["peak"]["rss_gib"]
    assert 0 < record["peak"]["pss_gib"] <= record["peak"]["rss_gib"]


def test_a_failure_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert demo_split.main(["--module", "broken", "--out", str(tmp_path / "x.json")]) == 3


def test_too_much_memory_is_told_by_the_exit_code(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_split, "MEMORY_BAR_GIB", 0.001)
    assert demo_split.main(["--module", made, "--out", str(tmp_path / "x.json")]) == 1
