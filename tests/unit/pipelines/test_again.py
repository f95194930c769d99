"""The command that runs a run again: the command line's own parser makes the same request of it, whatever the run was started with."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from distillery.reporting.page import RunRecord
from distillery.reporting.render import render
from distillery.storage.memory import MemoryStore
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.cli import running
from distillery_kfp.pipelines.runner.local import _Run
from distillery_kfp.pipelines.runner.request import RunRequest
from page_data import made_up_page

VALUES = {
    "synthesis.rounds": 40,
    "synthesis.config.latent_rate": 1e-5,
    "synthesis.config.reset": "off",
    "evaluation.latency": False,
    "about.title": 'it\'s 50 %, a "quoted" title: $HOME `x` \\n #1',
    "about.dataset": "two\nlines",
    "expects.classes": 10,
    "registration.model_name": "007",
    "student.architecture": {"name": "resnet8", "arguments": {"base_width": 16}},
    "student.stages": [{"epochs": 3, "objectives": [{"name": "kd", "temperature": 4.5}]}],
    "about.paper": "",
    "about.weights": "null",
}
FORM = {"gen_rounds": "synthesis.rounds", "synth_size": "set.size", "student_architecture": "student.architecture.name"}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "data": "/data/my digits/test.npz",
        "overrides": VALUES,
        "seed": 2**53 - 1,
        "salt": "--salt; rm -rf *",
        "device": "cuda:1",
        "threads": 3,
    },
    "s3": {"store": "s3://bucket/a b", "data": "s3://bucket/test.npz", "device": "cpu"},
    "relative": {"store": "my store", "teacher": "teachers/one", "workdir": Path("work"), "recipe": "own recipe.yaml"},
    "odd names": {"recipe": "/data/it's.yaml", "teacher": "-teacher", "store": "ünï", "salt": "\N{SNOWMAN}"},
    "the form's fields": {"form": {"gen_rounds": 7, "synth_size": 100, "student_architecture": "resnet8"}, "recipe": "ls_gdfd/digits"},
}


def request_of(**changes: Any) -> RunRequest:
    fields: dict[str, Any] = {"recipe": "fast_dfkd/digits", "teacher": "/teacher", "store": "/store", "workdir": Path("/work")}
    return RunRequest(**{**fields, **changes})


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILLERY_DEVICE", "DISTILLERY_THREADS", "DISTILLERY_ALLOW_MODULES", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], RunRequest]:
    """The variables before a command, and what the command line makes of the rest."""
    words = shlex.split(command)
    start = words.index("distillery")
    asked: list[RunRequest] = []
    monkeypatch.setattr(running, "carry_out", asked.append)
    monkeypatch.setattr(sys, "argv", words[start:])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    (request,) = asked
    return dict(word.split("=", 1) for word in words[:start]), request


def facts(request: RunRequest) -> dict[str, Any]:
    """What a request comes down to; the form's fields stand where the recipe has them."""
    arguments = request.arguments()
    moved = {place: arguments.pop(name) for name, place in FORM.items() if name in arguments}
    return {**arguments, "run_overrides": {**moved, **arguments["run_overrides"]}, **request.surroundings()}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_line_reads_back_the_request(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = request_of(**REQUESTS[name])
    command, expected = request.command(), facts(request)
    monkeypatch.chdir("/")  # the command holds from wherever it is given
    variables, again = parsed(command, monkeypatch)
    assert variables == {}
    assert facts(again) == expected


@pytest.mark.parametrize("name", ["plain", "everything", "s3"])
def test_the_page_says_the_same_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(**REQUESTS[name])
    crossed = {**request.arguments(), "run_seed": float(request.seed)}  # as it comes back from Kubeflow
    record = RunRecord(id="r", parameters=crossed, environment=request.surroundings())
    (shown,) = re.findall(r'<code id="command">(.*?)</code>', render(made_up_page(run=record)), re.DOTALL)
    command = unescape(shown).replace(" \\\n  ", " ")
    assert command == request.command()
    assert facts(parsed(command, monkeypatch)[1]) == facts(request)


def test_what_the_environment_chose_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        "DISTILLERY_DEVICE": "cpu",
        "DISTILLERY_THREADS": "2",
        "MLFLOW_TRACKING_URI": "https://mlflow.example/a b",
        "MLFLOW_EXPERIMENT_NAME": "it's mine",
        "DISTILLERY_ALLOW_MODULES": "nets,more",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    command = request_of().command()
    for name in chosen:
        monkeypatch.delenv(name)
    variables, again = parsed(command, monkeypatch)
    assert variables == {name: value for name, value in chosen.items() if name.startswith(("MLFLOW", "DISTILLERY_ALLOW"))}
    assert (again.device, again.threads) == ("cpu", 2)
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
    assert "--device cuda" in request_of(device="cuda").command(), "a flag wins, as it does in the run"


def test_a_command_names_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:pa55word@mlflow.example")
    request = request_of(data="https://ann:other5ecret@data.example/test.npz")
    record: Mapping[str, Any] = request.surroundings()
    page = render(made_up_page(run=RunRecord(id="r", parameters=request.arguments(), environment=dict(record))))
    for text in (request.command(), str(record), page):
        assert "pa55word" not in text
    assert "other5ecret" not in request.command()
    assert "MLFLOW_TRACKING_URI=https://mlflow.example " in request.command()


def test_without_a_record_of_the_machine_only_the_form_is_said() -> None:
    request = request_of(seed=4)
    assert made_up_page(run=RunRecord(id="r", parameters=request.arguments())).command() == (
        "distillery run fast_dfkd/digits \\\n  --teacher /teacher \\\n  --seed 4"
    )


def test_a_resumed_run_is_resumed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(run_id="20260102-030405-ab", device="cpu", threads=2, store="/my store")
    words = shlex.split(request.command())
    assert words == [
        *("distillery", "resume", "20260102-030405-ab", "--store", "/my store", "--workdir", "/work", "--device", "cpu", "--threads", "2")
    ]


@pytest.mark.parametrize("code", [143, 130])
def test_a_stopped_run_says_how_to_go_on(code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("distillery_kfp.pipelines.runner.local.execute", stop)
    request = request_of(threads=2, overrides={"synthesis.rounds": 9})
    with pytest.raises(SystemExit):
        running.carry_out(request)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"to go on: {request.command()}", "distillery: stopped; the same command goes on from the last checkpoint."]


def test_a_stopped_run_leaves_no_variable_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    seen: list[str] = []
    monkeypatch.setattr("distillery.tracking.open.close_parent", lambda status: seen.append(os.environ["MLFLOW_TRACKING_URI"]))
    run = _Run(replace(request_of(), workdir=tmp_path), "online_distillation", MemoryStore())
    run.planned, run.stopped = True, 15
    with pytest.raises(SystemExit):
        run.fail(-15)
    assert seen == [f"sqlite:///{tmp_path / 'mlflow.db'}"]
    assert "MLFLOW_TRACKING_URI" not in os.environ
