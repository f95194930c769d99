"""The register step: quiet without a tracking URI, a version with one, loud where MLflow does not take it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.evaluation.accuracy import Accuracy
from distillery.evaluation.agreement import Agreement
from distillery.evaluation.cost import Cost
from distillery.evaluation.report import EvaluationReport, ModelReport, save_report
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.recipes.sections import RegistrationSection
from distillery.steps.register import Inputs, Outputs, run
from distillery.types import Classifier, ImageSpec

pytestmark = [pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"), pytest.mark.timeout(120)]

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
NAMES = ("zero", "one")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client_of(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(_migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh sqlite file as the tracking URI."""
    uri = f"sqlite:///{shutil.copy(_migrated, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def section(**registration: Any) -> dict[str, Any]:
    settings = {"model_name": "digits", **registration}
    fields = {"recipe": "fast_dfkd/digits", "seed": 0, "code_version": code_version(), "teacher_sha256": "ab" * 32}
    return RegistrationSection.parse({**fields, "registration": settings}).to_json()


def student(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    architecture = Architecture(name="resnet8", arguments={"base_width": 4})
    network = build_network(architecture, SPEC, len(NAMES))
    return save_classifier(
        folder, Classifier(network, SPEC, NAMES), architecture, Provenance(inputs={"set": "cd" * 32}, code_version=code_version())
    )


def report(path: Path, sha256: str, top1: float | None, rate: float = 0.75, data: str = "ef" * 32) -> None:
    labelled = top1 is not None
    scores = Accuracy(correct=int(100 * top1), total=100, top1=top1, top5=1.0) if top1 is not None else Accuracy()
    cost = Cost(parameters=10, flops=20)
    document = EvaluationReport(
        source="test set" if labelled else "held-out synthetic",
        images=100,
        labelled=labelled,
        class_names=NAMES,
        teacher=ModelReport(cost=cost),
        student=ModelReport(sha256=sha256, accuracy=scores, cost=cost),
        agreement=Agreement(agreed=int(100 * rate), total=100, rate=rate, kl=0.1),
    )
    save_report(path, document, Provenance(inputs={"eval_data": data} if labelled else {}, code_version=code_version()))


def register(tmp_path: Path, top1: float | None = 0.5, seed: int = 0, data: str = "ef" * 32, **registration: Any) -> dict[str, Any]:
    sha256 = student(tmp_path / f"student{seed}", seed)
    report(tmp_path / "report.json", sha256, top1, data=data)
    return ask(section(**registration), tmp_path, f"student{seed}", "out/registration.json")


def ask(section: dict[str, Any], folder: Path, bundle: str = "student", out: str = "out.json") -> dict[str, Any]:
    inputs = Inputs(student=folder / bundle, report=folder / "report.json")
    return run(section, inputs, Outputs(registration=folder / out))


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def test_without_a_uri_the_record_says_that_nothing_was_registered(tmp_path: Path) -> None:
    answer = register(tmp_path)
    record = json.loads((tmp_path / "out/registration.json").read_text())
    assert (record["format"], record["version"]) == ("distillery-registration", 2)
    assert (answer["model_version"], record["model_version"]) == ("", "")
    assert "nothing was registered" in record["reason"]
    assert (record["metric"], record["value"]) == ("student/top1", 0.5)
    assert None not in answer.values()  # KFP takes no None inside a dict


def test_with_a_uri_it_is_a_version_that_leads_back_to_its_inputs(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    answer = register(tmp_path)
    client = client_of(uri)
    version = client.get_model_version_by_alias("digits", "champion")
    assert str(version.version) == answer["model_version"] == "1"
    expected = {
        "student_sha256": answer["student_sha256"],
        "teacher_sha256": "ab" * 32,
        "recipe": "fast_dfkd/digits",
        "input.set": "cd" * 32,
        "pipeline_run_id": "run-7",
        "source": "test set " + "ef" * 6,
    }
    assert {name: version.tags[f"distillery/{name}"] for name in expected} == expected
    step = client.get_run(version.run_id)
    parent = client.get_run(step.data.tags["mlflow.parentRunId"])
    assert (step.info.run_name, step.info.status, parent.info.status) == ("register", "FINISHED", "FINISHED")
    assert step.data.metrics["student/top1"] == 0.5
    assert [item.path for item in client.list_artifacts(step.info.run_id)] == ["registration.json"]
    assert not (tmp_path / "mlruns").exists()


def test_challenger_and_champion(uri: str, tmp_path: Path) -> None:
    assert register(tmp_path, 0.5, seed=0)["aliases"] == ["challenger", "champion"]
    assert register(tmp_path, 0.4, seed=1)["aliases"] == ["challenger"]
    assert register(tmp_path, 0.9, seed=2, data="00" * 32)["aliases"] == ["challenger"]  # another test set
    assert register(tmp_path, 0.6, seed=3)["aliases"] == ["challenger", "champion"]
    assert register(tmp_path, 0.6, seed=3)["model_version"] == "4"  # run again


def test_without_a_test_set_the_gate_compares_agreement(tmp_path: Path) -> None:
    answer = register(tmp_path, None)
    assert (answer["metric"], answer["value"]) == ("agreement", 0.75)


def test_a_dead_server_is_loud_and_leaves_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="was not registered as 'digits'"):
        register(tmp_path)
    assert not (tmp_path / "out/registration.json").exists()
    assert "was not registered" in json.loads((tmp_path / "work/errors/register.json").read_text())["message"]


def nothing_of(uri: str) -> None:
    """No registered model, and no logged model that anybody could take for whole."""
    client = client_of(uri)
    assert list(client.search_registered_models()) == []
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [model for model in client.search_logged_models(experiments) if str(model.status) == "READY"] == []


def test_artifacts_that_cannot_be_written_leave_no_version(uri: str, tmp_path: Path) -> None:
    (tmp_path / "mlartifacts").write_text("a file where a folder is needed")
    with pytest.raises(StoreError, match=r"^The student was not registered as 'digits', because MLflow at .* step again\.$") as refused:
        register(tmp_path)
    assert "\n" not in str(refused.value)
    nothing_of(uri)
    assert not (tmp_path / "out/registration.json").exists()
    (tmp_path / "mlartifacts").unlink()
    assert register(tmp_path)["model_version"] == "1"


def test_a_database_that_cannot_be_written_is_loud(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client_of(uri).create_experiment("distillery")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{uri.removeprefix('sqlite:///')}?mode=ro&uri=true")
    with pytest.raises(StoreError, match=r"^The student was not registered as 'digits', because .*readonly.* step again\.$"):
        register(tmp_path)
    assert "Traceback" not in capfd.readouterr().err
    nothing_of(uri)


def test_a_network_that_cannot_be_traced_is_registered_as_a_bundle(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ConfigError("resnet8 cannot be exported: change the network.")

    monkeypatch.setattr("distillery.steps.register.export_student", refuse)
    assert register(tmp_path)["model_version"] == "1"
    assert "distillery/served_sha256" not in client_of(uri).get_model_version("digits", "1").tags


def test_a_report_of_another_student_is_refused(tmp_path: Path) -> None:
    student(tmp_path / "student")
    report(tmp_path / "report.json", "00" * 32, 0.5)
    with pytest.raises(CheckpointMismatchError, match="evaluate this student first"):
        ask(section(), tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    sha256 = student(tmp_path / "student")
    report(tmp_path / "report.json", sha256, 0.5)
    weights = tmp_path / "student/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="fail their sha256"):
        ask(section(), tmp_path)


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        ask(section(), tmp_path)
    student(tmp_path / "student")
    with pytest.raises(MissingResourceError, match="report"):
        ask(section(), tmp_path)


def test_a_number_that_is_better_when_lower_cannot_be_the_gate() -> None:
    with pytest.raises(ConfigError, match="metric"):
        section(metric="student/ece")
