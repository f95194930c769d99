"""An installation without extras: what has to work does, and what cannot says in one sentence which extra is missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery import Distilled
from distillery.errors import ConfigError
from distillery.extras import EXTRAS, installed, need
from distillery.provenance import sha256_bytes
from tiny_runs import labelled

CORE = """
import importlib, io, json, pkgutil, sys
from contextlib import redirect_stderr, redirect_stdout
sys.path.insert(0, sys.argv[1])

class Without:  # the extras: as where nobody has installed them
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {names} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
ABSENT = {*(module for modules in EXTRAS.values() for module in modules), "kubernetes", "botocore", "onnxruntime", "pandas", "matplotlib"}

COMMANDS = """
from distillery_kfp.pipelines.cli.app import main

said = []
for words in json.loads(sys.argv[2]):
    sys.argv = ["distillery", *words]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""


def in_core(code: str, *arguments: str, **variables: str) -> Any:
    """What a script prints in a process that can import the core's packages only."""
    script = CORE.format(names=sorted(ABSENT)) + code
    words = [sys.executable, "-c", script, str(Path(__file__).parents[2]), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": "/nonexistent", **variables}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


IMPORT_ALL = """
import distillery
own = {"distillery.tracking.mlflow", "distillery.storage.s3"}
names = [found.name for found in pkgutil.walk_packages(distillery.__path__, "distillery.") if found.name not in own]
for name in names:
    importlib.import_module(name)
for room in ("cli", "runner", "demo"):
    package = importlib.import_module(f"distillery_kfp.pipelines.{room}")
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
print(json.dumps(len(names)))
"""


def test_every_module_but_two_is_imported_without_any_extra() -> None:
    assert in_core(IMPORT_ALL) > 150


@pytest.fixture(scope="module")
def said(done: Distilled, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """What each command answers there, one after another in one process."""
    folder = tmp_path_factory.mktemp("core")
    data, student, teacher = str(labelled(folder)), str(done.student), done.teacher
    commands = {
        "evaluate": ["evaluate", student, "--teacher", teacher, "--data", data, "--json", str(folder / "report.json"), "--threads", "1"],
        "inspect": ["inspect", str(done.set), "--teacher", teacher, "--grid", str(folder / "grid.png")],
        "verify": ["verify", str(done.set)],
        "predict": ["predict", student, data, "--json"],
        "export": ["export", str(done.set), "--format", "imagefolder", "--out", str(folder / "set")],
        "pt2": ["export-student", student, "--out", str(folder / "served"), "--format", "pt2", "--input", "float32"],
        "runs": ["runs", "--store", done.store],
        "recipes": ["recipes"],
        "onnx": ["export-student", student, "--out", str(folder / "onnx")],
        "s3": ["verify", "s3://bucket/sets/a"],
        "timm": ["import-teacher", str(folder / "none.pt"), "--architecture", "timm:resnet18", "--shape", "3,8,8", "--mean", "0,0,0"]
        + ["--std", "1,1,1", "--classes", "3", "--out", str(folder / "timm")],
        "compile": ["compile", "--out", str(folder / "compiled")],
        "run": ["run", "fast_dfkd/digits", "--teacher", teacher, "--store", str(folder / "store")],
        "audit": ["audit", "student:1", "--store", done.store],
    }
    answers = in_core(COMMANDS, json.dumps(list(commands.values())), MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    return {name: (code, out, err) for name, (code, out, err) in zip(commands, answers, strict=True)}


@pytest.mark.parametrize("command", ["evaluate", "inspect", "verify", "predict", "export", "pt2", "runs", "recipes"])
def test_the_core_is_enough_for(command: str, said: dict[str, tuple[int, str, str]], done: Distilled) -> None:
    code, out, err = said[command]
    assert code == 0, err
    told = {
        "evaluate": "top-1",
        "verify": "whole",
        "predict": sha256_bytes((done.student / "bundle.json").read_bytes()),
        "pt2": "student.pt2",
        "runs": done.run_id,
    }
    assert told.get(command, "") in out


@pytest.mark.parametrize(
    ("command", "extra", "subject"),
    [
        ("onnx", "export", "The format onnx needs onnx and onnxscript"),
        ("s3", "s3", "The store 's3://bucket/sets/a' needs boto3"),
        ("timm", "timm", "The architecture 'timm:resnet18' needs timm"),
        ("compile", "kubeflow", "Compiling a pipeline needs kfp"),
        ("run", "kubeflow", "A pipeline on this machine needs kfp"),
        ("audit", "mlflow", "The registry's version 'student:1' needs mlflow"),
    ],
)
def test_what_lacks_an_extra_says_which(command: str, extra: str, subject: str, said: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = said[command]
    assert (code, out) == (1, "")
    verb = "are" if " and " in subject else "is"
    assert err == f"distillery: {subject}, which {verb} not installed: pip install 'distillery[{extra}]'.\n"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an extra's modules unimportable."""

    def leave_out(extra: str) -> None:
        for module in EXTRAS[extra]:
            monkeypatch.setitem(sys.modules, module, None)

    return leave_out


def test_a_tracking_uri_without_mlflow_stops_before_anything_is_trained(
    without: Any, done: Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distillery

    without("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI = 'http://localhost:1' needs mlflow, .*'distillery\[mlflow\]'\.$"):
        distillery.distill(done.teacher, "fast_dfkd/digits", tmp_path / "run")
    assert not list(tmp_path.glob("run/store/*"))


def test_the_demo_without_scikit_learn_says_so_and_empties_no_folder(
    without: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distillery_kfp.pipelines.demo import run

    without("demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "redact_output", lambda: None)
    monkeypatch.setattr(run.logging, "basicConfig", lambda **named: None)
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 1
    assert "The demo needs sklearn, which is not installed: pip install 'distillery[demo]'." in capsys.readouterr().err


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_there_or_is_asked_for(extra: str, without: Any) -> None:
    assert installed(extra) or extra == "timm"
    without(extra)
    assert not installed(extra)
    with pytest.raises(ConfigError, match=rf"^It needs .*, which (is|are) not installed: pip install 'distillery\[{extra}\]'\.$"):
        need(extra, "It")
