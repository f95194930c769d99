"""docs/guides/foreign-teacher.md, followed word by word in a folder outside the repository."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillery.models.bundle import load_classifier, read_bundle
from distillery.steps.import_teacher import read_class_names, run

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "foreign-teacher.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


def _script(name: str) -> str:
    return next(block for block in _blocks("python") if block.startswith(f"# {name}"))


def _import_as_told(number: int) -> dict[str, Any]:
    """The arguments of the n-th `distillery import-teacher` of the guide, handed to the step as the command line does."""
    line = _blocks("sh")[number].replace("\\\n", " ").splitlines()[-1]
    words = shlex.split(line)
    assert words[:2] == ["distillery", "import-teacher"]
    options = list(zip(words[2::2], words[3::2], strict=True))
    given = dict(options)
    arguments = dict(value.split("=") for key, value in options if key == "--argument")
    spec: dict[str, Any] = {key: given[f"--{key}"] for key in ("channels", "height", "width")}
    spec |= {key: given[f"--{key}"].split(",") for key in ("mean", "std")}
    architecture = {"name": given["--architecture"], "arguments": {k: int(v) if v.isdecimal() else v for k, v in arguments.items()}}
    names = read_class_names(given["--classes"])
    return run(Path(given["--checkpoint"]), architecture, spec, names, Path(given["--out"]), given.get("--check", ""))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_torchvision_model(outside: Path) -> None:
    exec(_script("train.py"), {})
    result = _import_as_told(0)
    classifier = load_classifier(outside / "teachers" / "flowers", result["sha256"]).eval()
    assert classifier.class_names == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    trained = torch.load("flowers.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"module.{name}"]) for name, value in classifier.network.state_dict().items())


def test_module_of_ones_own(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outside / "my_models").mkdir()
    (outside / "my_models" / "nets.py").write_text(_script("my_models/nets.py"))
    monkeypatch.syspath_prepend(outside)
    try:
        exec(_script("train_leaf.py"), {})
        result = _import_as_told(1)
        assert result["top1"] > 0.9
        assert result["hint"] == ""
        assert read_bundle(outside / "teachers" / "leaf")[0].architecture.arguments == {"width": 8, "activation": "gelu"}
        loaded = load_classifier(outside / "teachers" / "leaf", result["sha256"]).network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in load_file("leaf.safetensors").items())
        exec(_script("import_leaf.py"), {})
        assert read_bundle(outside / "teachers" / "leaf-python")[1] == result["sha256"]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "my_models"]:
            del sys.modules[name]
