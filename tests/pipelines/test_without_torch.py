"""What the image of tools does without torch: all that compiles, uploads and lists; the rest says so in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from torchless import WITHOUT_TORCH

COMMAND = """
sys.argv = ["distillery", *sys.argv[1:]]
from distillery_kfp.pipelines.cli.app import main
main()
"""


def without_torch(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH + COMMAND, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [["--help"], ["upload", "--help"], ["recipes"], ["methods"]], ids=" ".join)
def test_it_answers(words: list[str]) -> None:
    done = without_torch(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_it_compiles(tmp_path: Path) -> None:
    done = without_torch("compile", "--out", str(tmp_path), "--registry", "registry.example.net")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "online_distillation.yaml").exists()


def test_what_computes_says_what_is_missing(tmp_path: Path) -> None:
    done = without_torch("audit", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("distillery: This command computes with torch, which is not installed here: the image of tools leaves it")
    assert done.stderr.count("\n") == 1
