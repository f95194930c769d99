"""What a caller may get wrong before anything is done, and what of the caller's process must not matter."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import distillery
from distillery import ConfigError
from distillery.api.arguments import class_names, located, new_folder
from distillery.api.process import visiting
from distillery.api.progress import silent
from distillery.models.catalog import Architecture, build_network
from fakes import SPEC, TINY

NOTHING: dict[str, Any] = {"teacher": "t", "recipe": "fast_dfkd/digits", "out": "out"}
TEACHER: dict[str, Any] = {"weights": {}, "architecture": "resnet8", "spec": SPEC, "classes": 3, "out": "out"}
EVALUATION: dict[str, Any] = {"student": "s", "teacher": "t", "data": "d"}
SET: dict[str, Any] = {"teacher": "t", "synthesizer": "s", "out": "out", "size": 9}
TYPED = "where a path or a URI is expected"
MAPPED = "is a list, where names with their values are expected: give a dict."


@pytest.mark.parametrize(
    ("function", "asked", "change", "sentence"),
    [
        ("distill", NOTHING, {"recipe": {"synthesis": {}}}, f"recipe is a dict, {TYPED}"),
        ("distill", NOTHING, {"recipe": b"x.yaml"}, f"recipe is a bytes, {TYPED}"),
        ("distill", NOTHING, {"overrides": ["a=b"]}, f"overrides {MAPPED}"),
        ("distill", NOTHING, {"threads": "two"}, "threads = 'two' is not allowed"),
        ("distill", NOTHING, {"threads": True}, "threads = True is not allowed"),
        ("distill", NOTHING, {"device": None}, "device = None is not allowed: choose auto, cpu, cuda or cuda:N."),
        ("distill", NOTHING, {"out": ""}, "out = '' is not allowed: name a folder of this machine."),
        ("distill", NOTHING, {"out": "s3://bucket/x"}, "out = 's3://bucket/x' is not allowed: name a folder of this machine."),
        ("distill", NOTHING, {"out": "file"}, "file' cannot be a folder, because '.*file' is a file: name another one."),
        ("distill", NOTHING, {"out": "file/below"}, "below' cannot be a folder, because '.*file' is a file"),
        ("distill", NOTHING, {"progress": None}, "progress = None is not allowed: give a function of one ProgressEvent"),
        ("distill", NOTHING, {"overrides": {"synthesis.method": ["a"]}}, r"synthesis.method = \['a'\] is not allowed: give a text"),
        ("import_teacher", TEACHER, {"architecture": 3}, "architecture is an int, where names"),
        ("import_teacher", TEACHER, {"spec": [1, 8, 8]}, f"spec {MAPPED}"),
        ("import_teacher", TEACHER, {"classes": None}, "classes holds None, which is no text: give a list of names, or how many"),
        ("import_teacher", TEACHER, {"classes": [1, 2]}, "classes holds 1, which is no text"),
        ("import_teacher", TEACHER, {"out": "file"}, "out = '.*file' cannot be a folder"),
        ("import_teacher", TEACHER, {"prefix": 3}, f"prefix is an int, {TYPED}"),
        ("import_teacher", TEACHER, {}, "^The state dict holds no tensors under any key"),
        ("evaluate", EVALUATION, {"options": ["latency"]}, f"options {MAPPED}"),
        ("evaluate", EVALUATION, {"teacher": ""}, "teacher = '' names no bundle: give its folder, or its URI in a store."),
        ("evaluate", EVALUATION, {"threads": -1}, "threads = -1 is not allowed"),
        ("materialize", SET, {"options": [3]}, f"options {MAPPED}"),
        ("materialize", SET, {"out": "s3://bucket/x"}, "out = 's3://bucket/x' is not allowed"),
        ("export", {"bundle": "", "out": "out"}, {}, "bundle = '' names no bundle"),
        ("export", {"bundle": "b", "out": "file"}, {}, "out = '.*file' cannot be a folder"),
        ("load_classifier", {"bundle": ""}, {}, "bundle = '' names no bundle"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_nothing_is_written(
    function: str, asked: dict[str, Any], change: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    with pytest.raises(ConfigError, match=sentence):
        getattr(distillery, function)(**{**asked, **change})
    assert os.listdir() == ["file"]


def test_a_module_that_is_no_text_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="^3 of --allow-module"), distillery.allow_modules(3):  # type: ignore[arg-type]
        pass


def test_places_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("a", "out") == str(new_folder("a")) == str(tmp_path / "a")
    with pytest.raises(ConfigError, match="the home of a user that is not known here: write the path out"):
        located("~nobody_of_that_name/x", "out")
    with pytest.raises(ConfigError, match="no path holds the character NUL"):
        located("a\0b", "out")


def test_classes_are_counted_by_whatever_whole_number() -> None:
    assert class_names(np.int64(2)) == class_names(2) == ["0", "1"]  # type: ignore[arg-type]
    assert class_names(("a", "b")) == ["a", "b"]


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_what_the_caller_switched_on_does_not_reach_a_step(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    images = torch.rand(2, *SPEC.shape)
    with mode(), visiting(silent):
        network = build_network(TINY, SPEC, 4)
        answers = network(images)
        assert answers.requires_grad
        assert not answers.is_inference()
        assert (answers.dtype, answers.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_steps_autocast_sees_weights_as_they_are_within_the_callers(enabled: bool) -> None:
    layer, images = nn.Linear(4, 2, bias=False), torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled), visiting(silent):
        for weight in (1.0, 2.0):
            nn.init.constant_(layer.weight, weight)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                answers = layer(images)
            torch.testing.assert_close(answers.float(), weight * images.sum(1, keepdim=True).expand(3, 2), rtol=0.02, atol=0)
    assert torch.is_autocast_cache_enabled()


def test_the_callers_default_type_is_put_back_and_changes_no_bundle(tmp_path: Path) -> None:
    network = build_network(Architecture.parse({"name": "wrn_10_1", "arguments": {"base_width": 8}}), SPEC, 4)
    torch.set_default_dtype(torch.float64)
    try:
        found = distillery.import_teacher(network, TINY, SPEC, 4, tmp_path / "teacher").load()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in found.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_variables_that_a_library_leaves_are_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    before = dict(os.environ)
    with visiting(silent):
        os.environ.update(TORCHINDUCTOR_CACHE_DIR="theirs", TRITON_CACHE_DIR="theirs", MLFLOW_OTHER="theirs")
    assert dict(os.environ) == before


def test_a_state_dict_that_does_not_fit_is_named_as_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^The state dict does not fit resnet8"):
        distillery.import_teacher(nn.Linear(1, 1), "resnet8", SPEC, 3, tmp_path / "out")
