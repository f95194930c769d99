"""What the chart's pods call, carried out without torch, as in the image of tools: against the fake of Kubeflow's API, and an S3 server.

Commands and variables are taken from the rendered pods; only places that a pod mounts are folders of the test.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charting import NAMESPACE, WEEKLY, objects, over, pods, values
from distillery.storage.s3 import make_client
from distillery_kfp.pipelines.registrar.access import PROJECTED, TOKEN_PATH
from kubeflow_api import FakeKubeflow
from s3_servers import Moto
from torchless import WITHOUT_TORCH

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TOKEN = "a-token"
Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def kubeflow() -> Iterator[tuple[FakeKubeflow, str]]:
    """A server that people share, and its address; nothing that was asked broke a rule of its interface."""
    fake = FakeKubeflow(tokens=(TOKEN,), multi_user=True)
    with fake.serve() as address:
        yield fake, address
    assert fake.violations == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pods find what they mount; packages that were compiled there stay for the next."""
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """A server with one bucket."""
    server = Moto(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL_S3": server.endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
            patch.setenv(name, value)
        make_client().create_bucket(Bucket="models")
    yield server
    server.stop()


def given(address: str, endpoint: str = "http://127.0.0.1:9", **settings: str) -> dict[str, Any]:
    """Values of a namespace."""
    texts = {"s3_endpoint_url": endpoint, "s3_region": "us-east-1", "s3_patience": "1", **settings}
    return {
        "kubeflow": {"multiUser": True, "endpoint": address},
        "settings": {"values": texts},
        "credentials": {"values": {"s3_access_key": "a", "s3_secret_key": "b"}},
        "registration": {"schedules": [WEEKLY], "reconcile": {"enabled": True}, "disableOnUninstall": True},
    }


def resolve(row: dict[str, Any], found: Objects) -> str | None:
    """What a variable of a pod becomes, None where it is left out."""
    if "value" in row:
        return str(row["value"])
    (way,) = row["valueFrom"]
    reference = row["valueFrom"][way]
    kind, texts = ("ConfigMap", "data") if way == "configMapKeyRef" else ("Secret", "stringData")
    value = found.get((kind, reference["name"]), {}).get(texts, {}).get(reference["key"])
    assert value is not None or reference["optional"], f"no pod would start without {reference}"
    return value


def carry_out(found: Objects, kind: str, name: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run a pod's containers one after the other until one fails, as its kubelet does."""
    pod = pods([found[kind, name]])[f"{kind} {name}"]
    places = {"/scratch": folder / "scratch", "/etc/registration": folder / "registration"}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    for file, text in found["ConfigMap", "team-registration"]["data"].items():
        (places["/etc/registration"] / file).write_text(text)
    (folder / "token").write_text(TOKEN)
    (folder / "python").mkdir(exist_ok=True)
    (folder / "python/sitecustomize.py").write_text(WITHOUT_TORCH)
    done = []
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        if container["name"] == "compile" and (places["/scratch"] / "packages").exists():
            continue  # seconds, and equal commands write equal bytes
        variables = {row["name"]: text for row in container["env"] if (text := resolve(row, found)) is not None}
        if str(PROJECTED.parent) in [row["mountPath"] for row in container["volumeMounts"]]:
            variables[TOKEN_PATH] = str(folder / "token")
        words = [_placed(word, places) for word in container["command"]]
        program = {"distillery": [str(Path(sys.executable).with_name("distillery"))], "python3": [sys.executable]}[words[0]]
        path = str(Path(sys.executable).parent)
        environment = {
            "PATH": path,
            "PYTHONPATH": str(folder / "python"),
            **{key: _placed(text, places) for key, text in variables.items()},
        }
        done.append(subprocess.run([*program, *words[1:]], env=environment, capture_output=True, text=True, check=False, cwd=folder))
        if done[-1].returncode:
            break
    return done


def _placed(text: str, places: dict[str, Path]) -> str:
    for place, own in places.items():
        text = text.replace(place, str(own))
    return text


def test_an_installation_and_its_end(kubeflow: tuple[FakeKubeflow, str], folder: Path) -> None:
    fake, address = kubeflow
    found = objects(values(given(address)))
    before = carry_out(found, "Pod", "team-test-kubeflow", folder)
    assert not any(done.returncode for done in before), before[-1].stderr
    assert "weekly  would be created" in before[-1].stdout
    assert fake.recurring == fake.versions == {}

    installed = carry_out(found, "Job", "team-registration", folder)
    assert [done.returncode for done in installed] == [0, 0], installed[-1].stderr
    assert installed[0].stdout.count("uploaded") == len(fake.versions) > 1
    (weekly,) = fake.recurring.values()
    assert weekly["mode"] == "ENABLE"
    assert weekly["service_account"] == "distillery-runner"
    assert {row["namespace"] for row in fake.pipelines.values()} == {NAMESPACE}

    removed = carry_out(found, "Job", "team-disable-schedules", folder)
    assert [done.returncode for done in removed] == [0, 0], removed[-1].stderr
    assert [run["mode"] for run in fake.recurring.values()] == ["DISABLE"]


def test_a_registration_that_kubeflow_refuses_fails(folder: Path) -> None:
    fake = FakeKubeflow(tokens=("another",), multi_user=True)
    with fake.serve() as address:
        *_, last = carry_out(objects(values(given(address))), "Job", "team-registration", folder)
    assert last.returncode == 1
    assert last.stderr.startswith("distillery: ")
    assert fake.pipelines == {}


def test_closing_looks_into_the_store(kubeflow: tuple[FakeKubeflow, str], s3: Moto, folder: Path) -> None:
    _, address = kubeflow
    (done,) = carry_out(objects(values(given(address, s3.endpoint))), "CronJob", "team-closing", folder)
    assert (done.returncode, done.stderr) == (0, "")
    (done,) = carry_out(objects(values(given(address, s3.endpoint, store="s3://elsewhere/x"))), "CronJob", "team-closing", folder)
    assert done.returncode == 1
    assert "elsewhere" in done.stderr


def test_the_store_is_checked_and_nothing_is_left_in_it(s3: Moto, folder: Path) -> None:
    (done,) = carry_out(objects(values(given("http://127.0.0.1:9", s3.endpoint))), "Pod", "team-test-store", folder)
    assert done.stdout.splitlines() == [
        "credentials: whole",
        "store: s3://models/distillery",
        "mlflow: none: steps write JSON beside their outputs",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"values": {"store": "s3://elsewhere/x"}}}, "store: FAILED: .*'elsewhere'"),
        ({"settings": {"values": {"s3_endpoint_url": "http://127.0.0.1:9"}}}, "store: FAILED: .*127.0.0.1:9"),
        (
            {"credentials": {"values": {"s3_secret_key": None}}},
            "credentials: FAILED: one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is",
        ),
        ({"settings": {"values": {"mlflow_tracking_uri": "http://127.0.0.1:9"}}}, "mlflow: FAILED: "),
    ],
)
def test_each_fault_turns_the_check_red(s3: Moto, folder: Path, changed: dict[str, Any], said: str) -> None:
    found = objects(values(over(given("http://127.0.0.1:9", s3.endpoint, mlflow_max_retries="0", s3_max_attempts="1"), changed)))
    (done,) = carry_out(found, "Pod", "team-test-store", folder)
    assert done.returncode == 1
    assert re.search(rf"^{said}", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
