"""The gate, and a student as a version of a registered model."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, StoreError
from distillery.tracking.open import open_tracker
from distillery.tracking.protocol import Candidate, Registered, RegistrationConfig
from distillery.tracking.registry import Champion, gate

pytestmark = [pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning"), pytest.mark.timeout(60)]

STANDING = Champion("4", "student/top1", 0.9, "test set")


def candidate(value: float, metric: str = "student/top1", source: str = "test set", **tags: str) -> Candidate:
    return Candidate.model_construct(metric=metric, value=value, source=source, tags=tags, description="")


@pytest.mark.parametrize(
    ("choice", "given", "champion", "wins", "reason"),
    [
        ("if_better", candidate(0.1), None, True, "no champion"),
        ("if_better", candidate(0.91), STANDING, True, "beats 0.9 of version 4"),
        ("if_better", candidate(0.9), STANDING, False, "does not beat"),
        ("if_better", candidate(0.89), STANDING, False, "does not beat"),
        ("if_better", candidate(0.99, metric="agreement"), STANDING, False, "cannot be compared"),
        ("if_better", candidate(0.99, source="held-out synthetic"), STANDING, False, "cannot be compared"),
        ("if_better", candidate(0.99), Champion("4", "", math.nan), False, "no metric on unnamed data"),
        ("if_better", candidate(math.nan), None, False, "not a number"),
        ("always", candidate(0.1), STANDING, True, "always"),
        ("always", candidate(math.nan), STANDING, False, "not a number"),
        ("never", candidate(0.99), None, False, "never"),
        ("never", candidate(0.99), STANDING, False, "never"),
    ],
)
def test_gate(choice: Any, given: Candidate, champion: Champion | None, wins: bool, reason: str) -> None:
    decided, why = gate(RegistrationConfig(champion=choice), given, champion)
    assert decided is wins
    assert reason in why


@pytest.mark.parametrize("name", ["", "a/b", "a b", "it's"])
def test_a_model_name_that_the_registry_would_refuse(name: str) -> None:
    with pytest.raises(ConfigError, match="model_name"):
        RegistrationConfig.parse({"model_name": name})


def make_bundle(folder: Path, content: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(content)
    (folder / "weights.safetensors").write_bytes(content.encode() * 100)
    return hashlib.sha256(content.encode()).hexdigest()


def register(tmp_path: Path, content: str, value: float, choice: Any = "if_better") -> Registered:
    sha256 = make_bundle(tmp_path / "bundle", content)
    with open_tracker("register", tmp_path / "fallback") as tracker:
        asking = Candidate(metric="student/top1", value=value, source="test set", tags={"student_sha256": sha256}, description="words")
        return tracker.register(tmp_path / "bundle", RegistrationConfig(model_name="digits", champion=choice), asking)


def aliases(client: Any) -> dict[str, str]:
    return {name: str(version) for name, version in client.get_registered_model("digits").aliases.items()}


def test_the_first_student_is_challenger_and_champion(client: Any, tmp_path: Path) -> None:
    answer = register(tmp_path, "one", 0.5)
    assert (answer.model_version, answer.aliases, answer.previous_champion) == ("1", ("challenger", "champion"), "")
    assert aliases(client) == {"challenger": "1", "champion": "1"}
    version = client.get_model_version("digits", "1")
    assert version.status == "READY"
    assert version.description == "words"
    assert version.tags["distillery/student_sha256"] == hashlib.sha256(b"one").hexdigest()
    assert (version.tags["distillery/metric"], float(version.tags["distillery/value"])) == ("student/top1", 0.5)
    assert client.get_run(version.run_id).info.run_name == "register"


def test_the_version_holds_the_bundles_bytes_and_no_pickle(client: Any, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    register(tmp_path, "one", 0.5)
    copy = Path(download_artifacts("models:/digits@champion", dst_path=str(tmp_path / "copy"), tracking_uri=client.tracking_uri))
    found = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}


def test_a_version_leads_to_its_model_and_run(client: Any, tmp_path: Path) -> None:
    register(tmp_path, "one", 0.5)
    version = client.get_model_version_by_alias("digits", "champion")
    model = client.get_logged_model(version.tags["distillery/model_id"])
    assert model.source_run_id == version.run_id == version.tags["distillery/run_id"]
    assert str(model.status) == "READY"
    assert {metric.key: metric.value for metric in model.metrics} == {"student/top1": 0.5}


def test_champion_and_challenger_over_four_students(client: Any, tmp_path: Path) -> None:
    register(tmp_path, "one", 0.5)
    worse = register(tmp_path, "two", 0.4)
    assert (worse.model_version, worse.aliases, worse.previous_champion) == ("2", ("challenger",), "1")
    assert aliases(client) == {"challenger": "2", "champion": "1"}
    register(tmp_path, "three", 0.6)
    assert aliases(client) == {"challenger": "3", "champion": "3"}
    register(tmp_path, "four", 0.1, "always")
    assert aliases(client) == {"challenger": "4", "champion": "4"}


def test_a_step_that_runs_again_registers_nothing_twice(client: Any, tmp_path: Path) -> None:
    register(tmp_path, "one", 0.5)
    again = register(tmp_path, "one", 0.5)
    assert (again.model_version, again.aliases) == ("1", ("challenger", "champion"))
    assert "already" in again.reason
    assert register(tmp_path, "one", 0.7).model_version == "2"  # measured anew
    assert len(client.search_model_versions("name = 'digits'")) == 2


def test_two_workers_who_register_one_student_at_once_end_with_one_version(client: Any, tmp_path: Path) -> None:
    sha256 = make_bundle(tmp_path / "bundle", "one")
    asking = Candidate(metric="student/top1", value=0.5, source="test set", tags={"student_sha256": sha256}, description="words")
    answers: list[Registered] = []

    def second(folder: Path) -> None:
        """Comes between the first one's look for a version and its making of one."""
        with open_tracker("register", tmp_path / "second") as tracker:
            answers.append(tracker.register(tmp_path / "bundle", RegistrationConfig(model_name="digits"), asking))

    with open_tracker("register", tmp_path / "first") as tracker:
        answers.append(tracker.register(tmp_path / "bundle", RegistrationConfig(model_name="digits"), asking, second))
    assert [(answer.model_version, answer.aliases) for answer in answers] == [("1", ("challenger", "champion"))] * 2
    assert [found.version for found in client.search_model_versions("name = 'digits'")] == [1]
    assert aliases(client) == {"challenger": "1", "champion": "1"}


def test_a_champion_without_a_readable_number_is_not_compared(client: Any, tmp_path: Path) -> None:
    register(tmp_path, "one", 0.5)
    client.set_model_version_tag("digits", "1", "distillery/value", "good")
    answer = register(tmp_path, "two", 0.9)
    assert answer.aliases == ("challenger",)
    assert "cannot be compared" in answer.reason


def test_a_dead_server_is_loud(dead_server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not registered as 'digits', because MLflow at http://127.0.0.1:9 failed .* step again\."):
        register(tmp_path, "one", 0.5)
