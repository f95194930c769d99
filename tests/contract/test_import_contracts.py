"""Every import contract can fail: one violation is planted for each, and its contract, run alone, must find it."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".importlinter"
PIPELINE, COMPONENT = "distillery_kfp/pipelines/compile.py", "distillery_kfp/components/ops/plan/component.py"

# (contract, file that gets one more line, the line)
VIOLATIONS = [
    ("layers", "distillery/engine/fit.py", "import distillery.evaluation.report"),
    ("layers", "distillery/evaluation/report.py", "import distillery.engine.fit"),
    ("layers", "distillery/methods/ls_gdfd.py", "import distillery.students.kd"),
    ("layers", "distillery/students/kd.py", "import distillery.methods.catalog"),
    ("layers", "distillery/losses/priors.py", "import distillery.synthesis.protocol"),
    ("layers", "distillery/losses/priors.py", "import distillery.data.augment"),
    ("layers", "distillery/storage/uri.py", "import distillery.models.bundle"),
    ("layers", "distillery/recipes/loader.py", "import distillery.steps.plan"),
    ("layers", "distillery/unheard_of.py", ""),
    ("platform_on_top", COMPONENT, f"import {PIPELINE.removesuffix('.py').replace('/', '.')}"),
    ("platform_on_top", "distillery/steps/plan.py", "import distillery_kfp.components"),
    ("pipelines_floors", "distillery_kfp/pipelines/compile.py", "import distillery_kfp.pipelines.runner.display"),
    ("pipelines_floors", "distillery_kfp/pipelines/runner/display.py", "import distillery_kfp.pipelines.demo.digits"),
    ("pipelines_floors", "distillery_kfp/pipelines/demo/digits.py", "import distillery_kfp.pipelines.cli.bar"),
    ("pipelines_floors", "distillery_kfp/pipelines/online_distillation.py", "import distillery_kfp.pipelines.inversion_distillation"),
    ("pipelines_floors", "distillery_kfp/pipelines/form.py", "import distillery_kfp.pipelines.metadata"),
    ("pipelines_floors", "distillery_kfp/pipelines/unheard_of.py", ""),
    ("layers", "distillery/step_table.py", "import distillery.recipes.loader"),
    ("library_without_platform", "distillery/steps/plan.py", "import kfp"),
    ("library_without_platform", "distillery/storage/uri.py", "import kubernetes"),
    ("library_without_platform", "distillery/tracking/null.py", "import distillery_kfp.pipelines"),
    ("methods_apart", "distillery/methods/ls_gdfd.py", "import distillery.methods.fast_dfkd"),
    ("methods_pure", "distillery/methods/ls_gdfd.py", "import distillery.storage"),
    ("methods_pure", "distillery/methods/fast_dfkd.py", "import distillery.tracking.protocol"),
    ("methods_pure", "distillery/methods/fast_dfkd.py", "import distillery.data.real"),
    ("methods_pure", "distillery/methods/fast_dfkd.py", "import distillery.data.shards"),
    ("methods_pure", "distillery/methods/ls_gdfd.py", "import distillery.models.bundle"),
    ("methods_pure", "distillery/methods/fast_dfkd.py", "import distillery.engine.fit"),
    ("students_apart", "distillery/students/kd.py", "import distillery.methods.catalog"),
    ("engine_blind", "distillery/engine/fit.py", "import distillery.evaluation.accuracy"),
    ("engine_blind", "distillery/engine/fit.py", "import distillery.methods.ls_gdfd"),
    ("mlflow_in_one_file", "distillery/tracking/protocol.py", "import mlflow"),
    ("mlflow_in_one_file", PIPELINE, "import mlflow"),
    ("boto3_in_one_file", "distillery/data/real.py", "import boto3"),
    ("boto3_in_one_file", "distillery/data/real.py", "import botocore"),
    ("boto3_in_one_file", "distillery/storage/uri.py", "import boto3"),
    ("real_data_in_one_file", "distillery/steps/distill_online.py", "import sklearn"),
    ("config_is_light", "distillery/config.py", "import torch"),
    ("config_is_light", "distillery/methods/catalog.py", "import torch"),
]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """The packages as an installation lays them out."""
    shutil.copytree(ROOT / "src/distillery", tmp_path / "distillery", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("components", "pipelines"):
        shutil.copytree(ROOT / folder, tmp_path / "distillery_kfp" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint(build: Path, contract: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(build)!r}); from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-P", "-c", code, "--config", str(CONFIG), "--no-cache", "--no-logo", "--contract", contract]
    return subprocess.run(command, cwd=build, capture_output=True, text=True)


def contracts() -> list[str]:
    parser = ConfigParser()
    parser.read(CONFIG)
    return [name.split(":")[2] for name in parser.sections() if name.count(":") == 2]


def test_every_contract_is_proved_here() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} == set(contracts())


def test_every_contract_is_kept(build: Path) -> None:
    broken = {name: done.stdout for name in contracts() if (done := lint(build, name)).returncode}
    assert broken == {}


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS, ids=[f"{row[0]}-{number}" for number, row in enumerate(VIOLATIONS)])
def test_a_planted_violation_is_found(build: Path, contract: str, file: str, line: str) -> None:
    target = build / file
    target.write_text((target.read_text() if target.exists() else '"""A room that no layer names."""\n') + f"\n{line}\n")
    done = lint(build, contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
