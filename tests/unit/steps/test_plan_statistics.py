"""A run takes moments that were measured before it: the plan opens and pins them, the first step takes exactly those up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from chains import EXPECTS, SHARED, make_teacher
from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.methods.catalog import METHODS
from distillery.models.bundle import VerifiedBundle
from distillery.provenance import Provenance, sha256_file
from distillery.recipes.sections import StatisticsSection
from distillery.statistics.extract import class_moments, global_moments
from distillery.statistics.moments import Moments, load_moments, read_origin, save_moments
from distillery.step_table import StatisticsFile
from distillery.steps.extract_statistics import Inputs, Outputs
from distillery.steps.extract_statistics import run as extract
from distillery.steps.plan import run
from methods.ls_gdfd import TINY
from toy_methods import TOYS, registered

PIPELINE = "generative_distillation"


@pytest.fixture(autouse=True)
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    make_teacher(tmp_path / "teacher")
    monkeypatch.setitem(METHODS, "ls_gdfd", replace(METHODS["ls_gdfd"], needs={"class_moments": ""}))
    with registered():
        yield


def written(folder: Path, method: str) -> str:
    recipe = {
        "about": {"title": "A toy."},
        "synthesis": {"method": method, "rounds": 1, "config": TOYS[method].tiny if method in TOYS else TINY},
        "set": {"size": 24, "max_oversampling": 3.0},
        "student": {"architecture": SHARED["student.architecture"], "stages": SHARED["student.stages"]},
        "expects": {name.removeprefix("expects."): value for name, value in EXPECTS.items()},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


def measured(folder: Path, source: str = "data") -> Moments:
    bundle = VerifiedBundle(folder / "teacher")
    teacher = bundle.classifier
    labels = torch.arange(teacher.num_classes).repeat(6)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), *teacher.spec.shape), dtype=np.uint8)
    moments = class_moments(teacher, torch.from_numpy(pixels), labels, bundle.sha256)
    save(folder / "moments.safetensors", moments, source)
    return moments


def save(path: Path, moments: Moments, source: str = "data") -> None:
    inputs = {"teacher": moments.teacher_sha256, **({source: "0" * 64} if source else {})}
    save_moments(path, moments, Provenance(inputs=inputs, config={}, seeds={}, code_version="0" * 64))


def plan(folder: Path, statistics: str = "moments.safetensors", method: str = "ls_gdfd", **overrides: Any) -> dict[str, dict[str, Any]]:
    form = {"teacher_uri": str(folder / "teacher"), "run_recipe_uri": written(folder, method), "run_overrides": overrides}
    return run(PIPELINE, {**form, "synth_statistics_uri": statistics and str(folder / statistics)})


@pytest.mark.parametrize("source", ["data", "set"])
def test_the_file_is_pinned_and_the_step_leaves_what_it_holds(tmp_path: Path, source: str) -> None:
    moments = measured(tmp_path, source)
    section = plan(tmp_path)["statistics"]
    digest = sha256_file(tmp_path / "moments.safetensors")
    assert (section["kind"], section["given_sha256"], section["measured_on"]) == ("per_class", digest, source)
    out = tmp_path / "out" / "statistics.safetensors"
    inputs = Inputs(teacher_uri=str(tmp_path / "teacher"), synth_statistics_uri=str(tmp_path / "moments.safetensors"))
    numbers = extract(section, inputs, Outputs(statistics=StatisticsFile(out)))
    taken = load_moments(out, moments.teacher_sha256)
    assert taken.counts is not None
    assert numbers["images"] == float(taken.counts.sum())
    for mine, theirs in ((taken.mean, moments.mean), (taken.variance, moments.variance)):
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert read_origin(out).inputs == {"teacher": moments.teacher_sha256, "moments": digest}


def test_another_file_than_the_plan_saw_is_refused(tmp_path: Path) -> None:
    moments = measured(tmp_path)
    section = plan(tmp_path)["statistics"]
    save(tmp_path / "moments.safetensors", replace(moments, mean={name: value + 1 for name, value in moments.mean.items()}))
    outputs = Outputs(statistics=StatisticsFile(tmp_path / "out" / "s"))
    inputs = Inputs(teacher_uri=str(tmp_path / "teacher"), synth_statistics_uri=str(tmp_path / "moments.safetensors"))
    with pytest.raises(CheckpointMismatchError, match=r"was [0-9a-f]{12} when the run was planned: plan it again\.$"):
        extract(section, inputs, outputs)
    with pytest.raises(ConfigError, match=r"^--statistics = '', but the run was planned with a file of moments"):
        extract(section, replace(inputs, synth_statistics_uri=""), outputs)
    plain = StatisticsSection.parse({**section, "kind": "global", "given_sha256": "", "measured_on": ""}, "statistics").to_json()
    with pytest.raises(ConfigError, match="was planned without a file of moments"):
        extract(plain, inputs, outputs)
    assert not (tmp_path / "out").exists()


def with_counts(moments: Moments, counts: list[int]) -> Moments:
    return replace(moments, counts=torch.tensor(counts))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("missing", MissingResourceError, "nowhere"),
        ("damaged", StoreError, "moments.safetensors"),
        ("other teacher", CheckpointMismatchError, "belong to teacher 1111"),
        ("empty class", ConfigError, r"hold none of class .*: give statistics .* as --statistics\.$"),
        ("fewer classes", ConfigError, r"are of 2 classes, but the teacher has \d+: extract its statistics again\.$"),
        ("none", ConfigError, r"ls_gdfd matches BatchNorm statistics of each class, .* measured class by class \(.*\), as --statistics\.$"),
        ("global", ConfigError, "its moments are those of all classes together"),
        ("for nobody", ConfigError, r"^--statistics = '.*' holds moments of each class, and toy_decoder matches none of them: choose"),
        ("not asked for", ConfigError, r"and ls_gdfd matches none of them: add --set synthesis\.config\.targets=class, or leave it out\.$"),
        ("a folder", DistilleryError, "teacher"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, error: type[Exception], said: str
) -> None:
    moments = measured(tmp_path)
    path, given, method = tmp_path / "moments.safetensors", "moments.safetensors", "ls_gdfd"
    assert moments.counts is not None
    match change:
        case "missing":
            given = "nowhere.safetensors"
        case "damaged":
            data = bytearray(path.read_bytes())
            data[-3] ^= 1
            path.write_bytes(data)
        case "other teacher":
            save(path, replace(moments, teacher_sha256="1" * 64))
        case "empty class":
            save(path, with_counts(moments, [0, *moments.counts.tolist()[1:]]))
        case "fewer classes":
            save(path, with_counts(moments, [6, 6]))
        case "none":
            given = ""
        case "global":
            bundle = VerifiedBundle(tmp_path / "teacher")
            save(path, global_moments(bundle.classifier, bundle.sha256), "")
        case "for nobody":
            method = "toy_decoder"
        case "not asked for":
            monkeypatch.setitem(METHODS, "ls_gdfd", replace(METHODS["ls_gdfd"], needs={"moments": ""}))
        case "a folder":
            given = "teacher"
    with pytest.raises(error, match=said) as refused:
        plan(tmp_path, given, method)
    assert "\n" not in str(refused.value)
