"""docs/guides/serving.md, followed word by word in a folder outside the repository."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distillery.evaluation.report import EvaluationConfig, EvaluationImages, MeasuredModel, evaluate, save_report
from distillery.models.bundle import load_classifier, save_classifier
from distillery.provenance import Provenance
from distillery_kfp.pipelines.cli import app as cli
from fakes import CLASSES, TINY, quadrants, tiny_teacher

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "serving.md"


def script(name: str) -> dict[str, Any]:
    """The names that a script of the guide leaves behind."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    left: dict[str, Any] = {}
    exec(next(block for block in blocks if block.startswith(f"# {name}")), left)
    return left


def type_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `distillery` line of the guide, in its order."""
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), flags=re.M | re.S) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, line


def test_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    teacher, draws = tiny_teacher(), torch.Generator().manual_seed(5)
    sha256 = save_classifier(Path("student"), teacher, TINY, Provenance(code_version="0" * 64))
    images, labels = quadrants(20, draws)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    data = EvaluationImages(pixels, labels, "test set")
    report = evaluate(MeasuredModel(teacher), MeasuredModel(teacher, sha256=sha256), data, EvaluationConfig(latency=False))
    save_report(tmp_path / "report.json", report, Provenance(code_version="0" * 64))
    for name, picture in zip(("one.png", "two.png"), pixels[:2, 0].numpy(), strict=True):
        Image.fromarray(picture).save(name)
    Image.fromarray(pixels[2, 0].numpy()).convert("RGB").resize((40, 30)).save("photo.png")

    type_commands(monkeypatch)
    assert "RGB -> grey, 40 x 30 -> 8 x 8" in capsys.readouterr().out
    assert "On 20 images (test set)" in Path("served/model-card.md").read_text()
    script("check.py")
    assert script("serve_onnx.py")["name"] == CLASSES[int(labels[0])]
    pt2 = script("serve_pt2.py")
    expected = load_classifier(Path("student")).freeze()(pt2["images"]).softmax(1)
    torch.testing.assert_close(pt2["probabilities"], expected)
    assert script("serve_bundle.py")["logits"].shape == (8, 4)


def test_a_changed_file_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("served").mkdir()
    Path("served/export.json").write_text('{"files": {"a": {"sha256": "0"}}}')
    Path("served/a").write_text("x")
    with pytest.raises(AssertionError, match="a"):
        script("check.py")
