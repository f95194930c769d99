"""Images of whoever runs the pipelines: by a registry, by a table of their own, with the Secret that pulls them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.deployment import Deployment, choose_deployment, faults_of
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.lint import lint
from distillery_kfp.pipelines.metadata import component_of, images, metadata

DIGEST = f"@sha256:{'a' * 64}"


@pytest.mark.parametrize(
    "reference",
    [
        "registry.example.com/team/name:1.0.0",
        "registry.example.com/name:v1.2.3-rc.1",
        "registry.example.com:5000/a/b/c:1.0.0",
        "registry:5000/name:1.0.0",
        "localhost/name:1.0.0",
        "10.0.0.1:443/name:1.0.0",
        f"registry.example.com/name{DIGEST}",
        f"registry.example.com/name:latest{DIGEST}",
    ],
)
def test_a_reference_that_is_whole(reference: str) -> None:
    assert faults_of(reference) == ""


@pytest.mark.parametrize(
    "reference",
    ["name:1.0.0", "team/name:1.0.0", "distillery/runtime-cpu-python:0.1.0", "https://registry.example.com/name:1.0.0", "", "/name:1.0.0"],
)
def test_a_reference_without_a_host(reference: str) -> None:
    assert faults_of(reference).startswith("names no host")


@pytest.mark.parametrize("tag", ["", ":latest", ":1", ":1.0", ":main", ":2026-11-26"])
def test_a_reference_that_can_move(tag: str) -> None:
    assert faults_of(f"registry.example.com/name{tag}").startswith("can move")


def test_the_committed_table_is_whole_and_nobodys() -> None:
    assert {faults_of(reference) for reference in images().values()} == {""}
    assert Deployment().is_placeholder
    assert choose_deployment() == Deployment()


@pytest.mark.parametrize(
    "registry", ["registry.example.net/team", "registry.example.net/team/", "localhost:5000", "registry.example.net/a/b"]
)
def test_a_registry_keeps_names_and_versions(registry: str) -> None:
    chosen = choose_deployment(registry)
    assert chosen.images == {
        "cpu": f"{registry.rstrip('/')}/runtime-cpu-python:0.1.0",
        "gpu": f"{registry.rstrip('/')}/runtime-gpu-python:0.1.0",
        "tools": f"{registry.rstrip('/')}/tools-python:0.1.0",
    }
    assert not chosen.is_placeholder


@pytest.mark.parametrize(
    "registry", ["team", "https://registry.example.net", "a/b", "registry.example.net/x:1.0.0", "registry.example.net//x", " "]
)
def test_what_is_no_registry(registry: str) -> None:
    with pytest.raises(ConfigError, match="^--registry .* is not allowed: give a host"):
        choose_deployment(registry)


def test_a_table_wins_over_the_registry(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("gpu: registry.example.net/mine/nets:2.0.0\n")
    chosen = choose_deployment("registry.example.org/all", str(tmp_path / "mine.yaml"))
    assert chosen.used == {"cpu": "registry.example.org/all/runtime-cpu-python:0.1.0", "gpu": "registry.example.net/mine/nets:2.0.0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no table"),
        ("- a\n", "is no table"),
        ("gpu: [\n", "is no YAML"),
        ("gpus: registry.example.net/x:1.0.0\n", "has a row 'gpus', but images.yaml has cpu, gpu"),
        ("gpu: team/nets:1.0.0\n", "names no host"),
        ("gpu: registry.example.net/nets:latest\n", "can move"),
        ("gpu: 3\n", "is no text"),
        ("gpu:\n", "is no text"),
    ],
)
def test_one_sentence_for_a_table_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        choose_deployment(table=str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(MissingResourceError, match="cannot be read"):
            choose_deployment(table=str(path))


@pytest.mark.parametrize("name", ["", "My-Secret", "a/b"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pull_secrets", "--pull-secret = .* is not allowed: name a Secret"),
        ("settings", "--settings = .* is not allowed: name a ConfigMap"),
        ("credentials", "--credentials = .* is not allowed: name a Secret"),
    ],
)
def test_what_is_no_objects_name(kind: str, said: str, name: str) -> None:
    with pytest.raises(DistilleryError, match=f"^{said}"):
        choose_deployment(**{kind: ("good", name)})


@pytest.mark.parametrize("pipeline", ALL)
def test_images_and_secrets_reach_every_task_and_nothing_else_changes(pipeline: str) -> None:
    chosen = choose_deployment("registry.example.net/team", pull_secrets=("one", "two"))
    text = compile_text(pipeline, chosen)
    committed = [*yaml.safe_load_all(compile_text(pipeline))]
    spec, settings = yaml.safe_load_all(text)
    for label, executor in spec["deploymentSpec"]["executors"].items():
        assert executor["container"]["image"] == chosen.images[metadata(component_of(label)).image]
        assert executor["container"]["env"][-1] == {"name": "DISTILLERY_IMAGE", "value": executor["container"]["image"]}
        for key in ("image", "env"):
            executor["container"][key] = committed[0]["deploymentSpec"]["executors"][label]["container"][key]
    for executor in settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert [row["secretName"] for row in executor.pop("imagePullSecret")] == ["one", "two"]
    assert [spec, settings] == committed
    assert lint(pipeline, text, chosen) == []
    assert {line.partition(":")[0] for line in lint(pipeline, text)} == {"images_are_listed", "fixed_as_chosen"}


@pytest.mark.parametrize("pipeline", ALL)
def test_the_form_offers_the_names_of_a_namespace_and_no_other(pipeline: str) -> None:
    """Kubeflow's form and API refuse a value that is no literal, so an emptied or mistyped name never reaches a driver."""
    chosen = choose_deployment(settings=["team-a", "team-b", "team-a"], credentials=["keys"])
    text = compile_text(pipeline, chosen)
    parameters = next(iter(yaml.safe_load_all(text)))["root"]["inputDefinitions"]["parameters"]
    assert (parameters["k8s_settings"]["literals"], parameters["k8s_settings"]["defaultValue"]) == (["team-a", "team-b"], "team-a")
    assert (parameters["k8s_credentials"]["literals"], parameters["k8s_credentials"]["defaultValue"]) == (["keys"], "keys")
    assert "#    k8s_settings: str [Default: 'team-a']" in text
    assert lint(pipeline, text, chosen) == []
    assert "choices_are_literals: parameter k8s_settings does not offer its 1 choices" in lint(pipeline, text)


@dsl.pipeline(name="pulled")
def pulled(section: dict[str, Any] = {}) -> None:  # noqa: B006
    """Read a teacher with an image that a Secret pulls."""
    kubernetes.set_image_pull_secrets(extract_statistics(section=section, teacher_uri="a", synth_statistics_uri=""), ["one"])


def test_a_secret_is_written_as_kfp_writes_it(tmp_path: Path) -> None:
    compiler.Compiler().compile(pulled, str(tmp_path / "pulled.yaml"))
    spec, settings = yaml.safe_load_all((tmp_path / "pulled.yaml").read_text())
    (executor,) = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    theirs = executor.pop("imagePullSecret")
    Deployment(pull_secrets=("one",)).apply(spec, settings)
    assert executor["imagePullSecret"] == theirs


def table_of(folder: Path, **references: str) -> str:
    path = folder / "mine.yaml"
    path.write_text("".join(f"{row}: {reference}\n" for row, reference in references.items()))
    return str(path)


def test_a_release_has_every_image_by_digest_where_it_is(tmp_path: Path) -> None:
    here = "registry.example.net/team/runtime"
    with pytest.raises(
        ConfigError, match="^--release needs every image by a digest that a registry gave, but cpu and gpu have none: `make"
    ):
        choose_deployment("registry.example.net/team").check_release()
    half = choose_deployment("registry.example.net/team", table_of(tmp_path, cpu=here + DIGEST))
    with pytest.raises(ConfigError, match="but gpu has none"):
        half.check_release()
    nobodys = table_of(tmp_path, cpu=here + DIGEST, gpu=f"registry.example.com/x:1.0.0{DIGEST}")
    with pytest.raises(ConfigError, match="^--release needs images where they are, but registry.example.com is nobody's"):
        choose_deployment(table=nobodys).check_release()
    choose_deployment(table=table_of(tmp_path, cpu=here + DIGEST, gpu=f"{here}:1.0.0{DIGEST}")).check_release()


def test_a_table_of_all_that_steps_run_in_leaves_nothing_at_nobodys(tmp_path: Path) -> None:
    here = "registry.example.net/team/runtime:1.0.0"
    assert not choose_deployment(table=table_of(tmp_path, cpu=here, gpu=here)).is_placeholder


def test_no_digest_is_committed() -> None:
    assert [row for row, reference in images().items() if "@" in reference] == []


def compile_as_told(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["distillery", "compile", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert (
        compile_as_told(
            ["--out", out, "--registry", "registry.example.net/team", "--pull-secret", "keys", "--settings", "mine"], monkeypatch
        )
        == 0
    )
    assert capsys.readouterr().err == ""
    text = (tmp_path / "out" / "online_distillation.yaml").read_text()
    assert "registry.example.net/team/runtime-gpu-python:0.1.0" in text
    assert "registry.example.com" not in text
    assert "defaultValue: mine" in text
    assert compile_as_told(["--out", out], monkeypatch) == 0
    assert "registry.example.com, which is nobody's: give --registry or --images" in capsys.readouterr().err


def test_the_command_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_as_told(["--out", str(tmp_path / "out"), "--registry", "team"], monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("distillery: --registry 'team' is not allowed")
    assert said.count("\n") == 1
    assert compile_as_told(["--out", str(tmp_path / "out"), "--registry", "registry.example.net", "--release"], monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("distillery: --release needs every image by a digest")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
