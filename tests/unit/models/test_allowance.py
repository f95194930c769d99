"""A module is imported where the user allowed it by name; what a bundle says is not enough."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.models.allowance import VARIABLE, allow_modules, allow_named
from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network, check_architecture
from distillery.models.foreign import import_checkpoint
from distillery.provenance import Provenance
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.cli import app as cli

SPEC = ImageSpec(channels=1, height=4, width=4, mean=(0.5,), std=(0.25,))
NETS = """
import pathlib
from functools import partial
from subprocess import run
from torch import nn
from torch.hub import load as hub_load
pathlib.Path({mark!r}).touch()

def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))

part, call = partial(build, num_classes=2), partial(run)
"""


def _build(name: str, **arguments: Any) -> nn.Module:
    return build_network(Architecture(name=name, arguments=arguments), SPEC, 2)


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mark of the modules `planted`, `planted.nets` and `planted.nets.deep`: there once one of them was imported."""
    mark = tmp_path / "imported"
    (tmp_path / "planted" / "nets").mkdir(parents=True)
    for name in ("planted/__init__.py", "planted/nets/__init__.py", "planted/nets/deep.py"):
        (tmp_path / name).write_text(NETS.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("planted", "planted.nets", "planted.nets.deep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return mark


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a network whose factory is planted.nets:build."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    classifier, architecture = Classifier(network, SPEC, ("a", "b")), Architecture(name="planted.nets:build")
    save_classifier(tmp_path / "bundle", classifier, architecture, Provenance(code_version="test"))
    return tmp_path / "bundle"


@pytest.mark.parametrize("allowed", ["", "numpy", "numpy.test", "numpy.testing2", "planted.nets", "numpy.testing:assert_equal"])
def test_a_bundle_cannot_run_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv(VARIABLE, allowed)
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    architecture = Architecture(name="numpy.testing:runstring", arguments={"astr": code, "dict": {}})
    save_classifier(tmp_path / "b", Classifier(nn.Flatten(), SPEC, ("a", "b")), architecture, Provenance(code_version="test"))
    with pytest.raises(ConfigError, match="--allow-module numpy.testing or DISTILLERY_ALLOW_MODULES=numpy.testing") as caught:
        load_classifier(tmp_path / "b")
    assert "'numpy.testing:runstring'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("allowed", ["planted", "planted.nets.deep", "planted.nets:part", "planted.net", "Planted.nets"])
def test_no_other_name_allows_a_module(bundle: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv(VARIABLE, allowed)
    with pytest.raises(ConfigError, match="nobody allowed it"):
        load_classifier(bundle)
    assert not imported.exists()


@pytest.mark.parametrize("allowed", ["planted.nets", "planted.nets:build", " other , planted.nets ,"])
def test_its_own_name_does(bundle: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv(VARIABLE, allowed)
    assert load_classifier(bundle).num_classes == 2
    assert imported.exists()


def test_a_module_allows_what_it_defines_and_not_what_it_took_from_elsewhere(imported: Path) -> None:
    with allow_modules("planted.nets"):
        assert isinstance(_build("planted.nets:part"), nn.Module)
        for name in ("run", "hub_load", "call", "__class__", "__init__"):
            with pytest.raises(ConfigError, match=f"'{name}' of the module 'planted.nets' comes from the module|no callable") as caught:
                _build(f"planted.nets:{name}", args="true")
            assert name.startswith("__") or f"--allow-module planted.nets:{name}" in str(caught.value)
    with allow_modules("planted.nets:run"), pytest.raises(ConfigError, match="gave a CompletedProcess"):
        _build("planted.nets:run", args="true")


def test_pythons_own_modules_are_never_allowed() -> None:
    with allow_modules("os", "os:system"), pytest.raises(ConfigError, match="part of Python"):
        _build("os:system", command="true")


@pytest.mark.parametrize("name", ["..os:system", "a..b:f", ".a:f", "a.:f", "a:b.c", "a:f:g", "a b:f", "a/b:f", "a:f()", "1a:f", "a-b:f"])
def test_what_is_no_factorys_name(name: str, imported: Path) -> None:
    for check in (lambda: _build(name), lambda: check_architecture(Architecture(name=name)), lambda: allow_named(name).__enter__()):
        with pytest.raises(ConfigError, match=r"is not allowed: write torchvision:NAME, timm:NAME or module\.path:factory"):
            check()


@pytest.mark.parametrize("text", ["a..b", "planted/nets", "a b", "*", "a.*", "--help"])
def test_what_is_no_modules_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is no module's name"), allow_modules(text):
        pass
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError, match="is no module's name"):
        _build("planted.nets:build")


def test_who_imports_a_checkpoint_allows_its_factory_for_that_call_alone(tmp_path: Path, imported: Path) -> None:
    torch.save({"1.weight": torch.randn(2, 16), "1.bias": torch.zeros(2)}, tmp_path / "w.pt")
    before = os.environ[VARIABLE]
    assert import_checkpoint(tmp_path / "w.pt", Architecture(name="planted.nets:build"), SPEC, ("a", "b")).num_classes == 2
    assert os.environ[VARIABLE] == before
    with pytest.raises(ConfigError, match="nobody allowed it"):
        _build("planted.nets:build")


def _command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says on stderr."""
    monkeypatch.setattr(sys, "argv", ["distillery", *map(str, words)])
    with pytest.raises(SystemExit):
        cli.main()
    return capsys.readouterr().err


COMMANDS: dict[str, list[str]] = {
    "predict": ["{bundle}", "{data}"],
    "evaluate": ["{bundle}", "--teacher", "{bundle}", "--data", "{data}"],
    "extract-statistics": ["{bundle}", "--out", "{out}", "--workdir", "{work}"],
    "run": ["fast_dfkd/digits", "--teacher", "{bundle}", "--store", "{out}", "--dry-run"],
    "train-student": ["fast_dfkd/digits", "--teacher", "{bundle}", "--images", "{data}", "--out", "{out}"],
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_open_bundles_of_allowed_modules_only(
    tmp_path: Path, bundle: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    import numpy as np

    np.savez(tmp_path / "data.npz", images=np.zeros((4, 1, 4, 4), np.uint8), labels=np.arange(4) % 2)
    places = {"bundle": bundle, "data": tmp_path / "data.npz", "out": tmp_path / "out", "work": tmp_path / "work"}
    words = [command, *(word.format(**places) for word in COMMANDS[command])]
    assert "--allow-module planted.nets" in _command(monkeypatch, capsys, *words)
    assert not imported.exists()
    before = os.environ[VARIABLE]
    assert "nobody allowed it" not in _command(monkeypatch, capsys, *words, "--allow-module", "other", "--allow-module", "planted.nets")
    assert imported.exists() or command in ("run", "train-student")  # these two refuse the teacher's shape before they build it
    assert os.environ[VARIABLE] == before


OPENING = ("run", "evaluate", "audit", "inspect", "export", "export-student", "extract-statistics", "train-student", "predict", "resume")


@pytest.mark.parametrize("command", OPENING)
def test_help_names_the_flag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["distillery", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--allow-module" in capsys.readouterr().out


def test_a_student_named_by_set_is_allowed_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("distillery_kfp.pipelines.cli.running.carry_out", lambda request: seen.append(os.environ[VARIABLE]))
    base = ("run", "fast_dfkd/digits", "--teacher", "t", "--store", tmp_path / "s")
    place = "student.architecture"
    for value in (f"{place}.name=mine.nets:net", f"{place}={{name: mine.nets:net}}", "student={architecture: {name: resnet8}}"):
        _command(monkeypatch, capsys, *base, "--set", value)
    assert seen == ["toy_networks,forty_networks,mine.nets:net"] * 2 + ["toy_networks,forty_networks"]
    assert "write torchvision:NAME" in _command(monkeypatch, capsys, *base, "--set", "student.architecture.name=mine..nets:net")
