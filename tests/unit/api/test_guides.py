"""docs/guides/python.md and the example of the README, run as they stand in a folder of their own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distillery
from distillery.models.catalog import Architecture, build_network
from distillery.types import ImageSpec
from short_recipes import SHORT

ROOT = Path(__file__).parents[3]


def blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_guide_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("docs/guides/python.md"):
        exec(block, names)
    assert names["teacher"].top1 > 0.95
    assert names["result"].metrics["student/top1"] > 0.9
    assert names["report"].student.accuracy.top1 == names["result"].metrics["student/top1"]
    assert len(names["losses"]) == 4
    assert names["more"].metrics["images"] == 60
    assert "student.pt2" in names["files"]
    said = capsys.readouterr()
    assert "There is no bundle at" in said.out
    assert "distill_online: " in said.err


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.3,))
    torch.save(build_network(Architecture(name="wrn_16_1"), spec, 10).state_dict(), "weights.pt")
    np.savez("labelled.npz", images=np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), dtype=np.uint8), labels=np.arange(40) % 10)
    whole = distillery.distill
    monkeypatch.setattr(distillery, "distill", lambda *given, **named: whole(*given, **named, overrides=SHORT["fast_dfkd/digits"]))
    (example,) = blocks("README.md")
    assert example.count("\n") <= 12
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["student"](torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert (tmp_path / "served" / "student.pt2").is_file()
    assert names["result"].page.is_file()
