"""docs/guides/foreign-teacher.md, followed word by word in a folder outside the repository."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillery.models.allowance import allow_modules
from distillery.models.bundle import load_classifier, read_bundle
from distillery.statistics.moments import load_moments
from distillery_kfp.pipelines import cli

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


def test_module_of_ones_own(outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (outside / "my_models").mkdir()
    (outside / "my_models" / "nets.py").write_text(_script("my_models/nets.py"))
    monkeypatch.syspath_prepend(outside)
    try:
        exec(_script("train_leaf.py"), {})
        _do_as_told(1, monkeypatch)
        assert float(re.search(r"top-1 on 300 images: ([\d.]+)%", capsys.readouterr().out)[1]) > 90
        info, sha256 = read_bundle(outside / "teachers" / "leaf")
        assert info.architecture.arguments == {"width": 8, "activation": "gelu"}
        with allow_modules("my_models.nets"):
            loaded = load_classifier(outside / "teachers" / "leaf").network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in load_file("leaf.safetensors").items())
        exec(_script("import_leaf.py"), {})
        assert read_bundle(outside / "teachers" / "leaf-python")[1] == sha256
        _do_as_told(2, monkeypatch, "extract-statistics")
        moments = load_moments(outside / "leaf-moments.safetensors", sha256)
        assert (moments.kind, moments.counts.tolist()) == ("per_class", [100, 100, 100])
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "my_models"]:
            del sys.modules[name]
