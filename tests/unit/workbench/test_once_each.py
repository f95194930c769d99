"""On the way from a teacher's address to a student each thing is opened once a step: its bundle, its moments, its layers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chains import OVERRIDES, SHARED, Chain
from distillery.models import bundle
from distillery.models.bundle import VerifiedBundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.statistics import extract
from distillery.steps import distill_online, evaluate, extract_statistics, import_teacher, plan, train_generator, train_student
from distillery.steps import materialize as drawing
from distillery.types import Classifier, ImageSpec
from distillery.workbench import assembly

STEPS = (plan, extract_statistics, train_generator, drawing, train_student, distill_online, evaluate)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Counter[str]]]:
    """How often each step did what it should do once, by the step's name, filled in as steps run."""
    counted: dict[str, Counter[str]] = {}
    step = ["none"]

    def count(module: Any, name: str, called: str, of: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(module, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            if of(*arguments):
                counted.setdefault(step[0], Counter())[called] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, counting)

    def is_teacher(folder: Path, name: str) -> bool:
        return folder.name == "teacher"

    count(bundle, "_read", "reads of the teacher", is_teacher)
    count(bundle, "build_network", "networks built")
    count(assembly, "load_moments", "moments")
    for module in (bundle, extract, extract_statistics, import_teacher, assembly):
        count(module, "find_layers", "layers")
    for module in STEPS:
        original = module.run

        def run(*arguments: Any, original: Callable[..., Any] = original, name: str = module.__name__, **named: Any) -> Any:
            step[0] = name.rpartition(".")[2]
            return original(*arguments, **named)

        monkeypatch.setattr(module, "run", run)
    return lambda: counted


@pytest.mark.parametrize("recipe", ["ls_gdfd/digits", "fast_dfkd/digits"])
def test_a_step_opens_each_thing_once(recipe: str, tmp_path: Path, calls: Callable[[], dict[str, Counter[str]]]) -> None:
    Chain(tmp_path, recipe, str(tmp_path / "store")).make()
    found = calls()
    assert found["plan"]["reads of the teacher"] == 1, "of a teacher of ours the plan hashes the weights and builds nothing"
    for name in found.keys() - {"none", "plan"}:
        assert found[name]["reads of the teacher"] == 2, f"{name}: its document and its weights"
    for name in found.keys() & {"train_generator", "materialize", "distill_online"}:
        assert found[name]["moments"] == 1, name
    assert {name: counted["layers"] for name, counted in found.items() if counted["layers"]} == {
        "none": 1,  # the chain saves its teacher
        "extract_statistics": 1,
        **({"train_student": 1} if "train_student" in found else {"distill_online": 1}),  # of the student, for all its bundles
    }


def test_an_import_looks_for_layers_once(tmp_path: Path, calls: Callable[[], dict[str, Counter[str]]]) -> None:
    torch.save(build_network(Architecture(name="resnet8"), spec(), 3).state_dict(), tmp_path / "c.pt")
    import_teacher.run(tmp_path / "c.pt", {"name": "resnet8"}, spec().to_json(), ["a", "b", "c"], tmp_path / "teacher")
    assert calls()["none"]["layers"] == 1


def test_a_plan_opens_a_network_of_somebody_else_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Callable[[], dict[str, Counter[str]]]
) -> None:
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "toy_networks")
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    architecture = Architecture(name="toy_networks:Pooled")
    classifier = Classifier(build_network(architecture, spec(3), 3), spec(3), ("a", "b", "c"))
    save_classifier(tmp_path / "teacher", classifier, architecture, Provenance(code_version="c"))
    any_size = dict.fromkeys(("expects.height", "expects.width", "expects.classes", "expects.channels"), 0)
    overrides = {**OVERRIDES["fast_dfkd/digits"], **SHARED, **any_size}
    values = {"run_recipe": "fast_dfkd/digits", "teacher_uri": str(tmp_path / "teacher"), "run_overrides": overrides}
    plan.run("online_distillation", values)
    assert calls()["plan"]["reads of the teacher"] == 2
    assert calls()["plan"]["networks built"] == 1


def test_a_bundle_builds_its_network_once_and_loads_as_many_as_are_asked_for(tmp_path: Path, calls: object) -> None:
    architecture = Architecture(name="resnet8")
    save_classifier(
        *(tmp_path / "teacher", Classifier(build_network(architecture, spec(), 3), spec(), ("a", "b", "c"))),
        *(architecture, Provenance(code_version="c")),
    )
    opened = VerifiedBundle(tmp_path / "teacher")
    assert opened.classifier is opened.classifier
    assert opened.load() is not opened.classifier
    assert not any(parameter.requires_grad for parameter in opened.classifier.parameters())
    assert all(parameter.requires_grad for parameter in opened.load().parameters())


def spec(channels: int = 1) -> ImageSpec:
    return ImageSpec(channels=channels, height=8, width=8, mean=(0.5,) * channels, std=(0.5,) * channels)
