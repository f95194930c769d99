"""docs/guides/foreign-teacher.md, followed word by word in a folder outside the repository."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery import Distilled, distill
from distillery.models.allowance import allow_modules
from distillery.models.bundle import load_classifier, read_bundle
from distillery.statistics.moments import load_moments
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.runner.local import RunRequest

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "foreign-teacher.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


def _script(name: str) -> str:
    return next(block for block in _blocks("python") if block.startswith(f"# {name}"))


def _do_as_told(number: int, monkeypatch: pytest.MonkeyPatch, command: str = "import-teacher") -> None:
    """What the n-th block of shell of the guide ends with, through the command itself."""
    words = shlex.split(_blocks("sh")[number].replace("\\\n", " ").splitlines()[-1])
    assert words[:2] == ["distillery", command]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_torchvision_model(outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    exec(_script("train.py"), {})
    _do_as_told(0, monkeypatch)
    folder = outside / "teachers" / "flowers"
    assert f"sha256 {read_bundle(folder)[1]}" in capsys.readouterr().out
    classifier = load_classifier(folder).eval()
    assert classifier.class_names == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    trained = torch.load("flowers.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"module.{name}"]) for name, value in classifier.network.state_dict().items())


def test_a_model_of_ones_own_in_three_steps(outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (outside / "my_models").mkdir()
    (outside / "my_models" / "nets.py").write_text(_script("my_models/nets.py"))
    monkeypatch.syspath_prepend(outside)
    runs: list[Distilled] = []
    monkeypatch.setattr("distillery_kfp.pipelines.cli.running.carry_out", lambda request: runs.append(_run_here(request)))
    try:
        trained: dict[str, Any] = {}
        exec(_script("train_leaf.py"), trained)
        _do_as_told(1, monkeypatch)
        said = capsys.readouterr()
        assert float(re.search(r"top-1 on 300 images: ([\d.]+)%", said.out)[1]) > 90
        info, sha256 = read_bundle(outside / "teachers" / "leaf")
        assert info.architecture.arguments == {"width": 8, "activation": "gelu"}
        with allow_modules("my_models.nets"):
            loaded = load_classifier(outside / "teachers" / "leaf").network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in trained["average"].module.state_dict().items())
        exec(_script("import_leaf.py"), {})
        assert read_bundle(outside / "teachers" / "leaf-python")[1] == sha256
        (outside / "leaf.yaml").write_text(next(block for block in _blocks("yaml") if block.startswith("# leaf.yaml")))
        _do_as_told(2, monkeypatch, "run")
        student = read_bundle(runs[0].student)[0]
        assert student.architecture.to_json() == {"name": "vgg8_bn", "arguments": {"base_width": 8}}
        assert runs[0].metrics["student/top1"] > 0.9
        _do_as_told(3, monkeypatch, "extract-statistics")
        moments = load_moments(outside / "leaf-moments.safetensors", sha256)
        assert (moments.kind, moments.counts.tolist()) == ("per_class", [100, 100, 100])
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "my_models"]:
            del sys.modules[name]


def _run_here(request: RunRequest) -> Distilled:
    """What `distillery run` would do in processes of its own; the environment that they inherit is this one's."""
    assert request.arguments()["run_recipe_uri"] == str(Path(request.recipe).absolute())
    return distill(request.teacher, request.recipe, "run", data=request.data, seed=request.seed, overrides=request.overrides)
