"""Audit and registration against a real MLflow over PostgreSQL with artifacts on S3: whole, broken, and with a part that is down."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chains import Chain, flip
from distillery.errors import StoreError
from distillery.ledger.audit import audit
from distillery.steps import register
from distillery.storage import Store, open_store
from distillery.storage.s3 import S3Store
from distillery.workbench.lineage import find_record, read_records
from mlflow_servers import MlflowServer, Postgres
from s3_servers import Ceph

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

VERSION = "distillery-student:1"


@contextmanager
def changed(store: Store, key: str, gone: bool = False) -> Iterator[None]:
    before = store.read(key)
    if gone:
        store.delete(key)
    else:
        store.write(key, flip(before))
    try:
        yield
    finally:
        store.write(key, before)


def key_of(chain: Chain, step: str) -> str:
    return next(record.key for record in read_records(open_store(chain.store), chain.run) if record.step == step)


def test_every_link_holds(served_chain: Chain) -> None:
    links = audit(VERSION)
    assert {link.state for link in links} == {"ok"}, links
    assert {link.name for link in links if link.where.startswith("s3://")} == {"report", "run", "set", "generator", "statistics"}
    assert audit("distillery-student@champion") == links
    assert {link.state for link in audit(f"{served_chain.store}/{served_chain.key}")} == {"ok"}


def test_the_data_sets_and_the_model_are_on_the_server(served_chain: Chain) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    version = client.get_model_version("distillery-student", "1")
    runs = client.search_runs([client.get_run(version.run_id).info.experiment_id])
    inputs = {
        (run.data.tags["distillery/stage"], tag.value, entry.dataset.source_type)
        for run in runs
        for entry in (run.inputs.dataset_inputs if run.inputs else [])
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }
    assert inputs == {("materialize", "synthesis", "s3"), ("train_student", "training", "s3"), ("evaluate", "evaluation", "s3")}
    step = client.get_run(version.run_id)
    assert [output.model_id for output in step.outputs.model_outputs] == [version.tags["distillery/model_id"]]
    steps = {run.data.tags.get("distillery/stage"): run.data.tags for run in runs}
    assert (
        steps["train_student"]["distillery/inputs.set"] == steps["materialize"]["distillery/set"] == version.tags["distillery/set_sha256"]
    )
    assert steps["train_generator"]["distillery/inputs.statistics"] == steps["extract_statistics"]["distillery/statistics"]


@pytest.mark.parametrize(
    ("name", "key", "gone"),
    [
        ("student", "{student}/weights.safetensors", False),
        ("run", "runs/{run}/run.json", True),
        ("set", "sets/{materialize}/manifest.json", False),
        ("set", "{shard}", False),
        ("generator", "{synthesizer}/state.safetensors", False),
        ("statistics", "{statistics}/file", True),
    ],
)
def test_a_break_in_the_store_is_named(name: str, key: str, gone: bool, served_chain: Chain) -> None:
    store, keys = open_store(served_chain.store), {"student": served_chain.key, "run": served_chain.run}
    keys["materialize"] = key_of(served_chain, "materialize")
    for output in ("synthesizer", "statistics"):
        record = find_record(read_records(store, served_chain.run), output)
        assert record is not None
        keys[output] = record.place(output)
    keys["shard"] = store.list(f"sets/{keys['materialize']}/shards")[0]
    with changed(store, key.format(**keys), gone), pytest.raises(StoreError, match=f"^The chain is broken at the {name}: "):
        audit(VERSION)


@pytest.mark.parametrize(("name", "file"), [("student", "/bundle/weights.safetensors"), ("served model", "/data/model/model.pt2")])
def test_a_break_in_the_servers_bucket_is_named(name: str, file: str, served_chain: Chain) -> None:
    bucket = S3Store("mlflow")
    key = next(key for key in bucket.list() if key.endswith(file))
    with changed(bucket, key), pytest.raises(StoreError, match=f"^The chain is broken at the {name}: "):
        audit(VERSION)


def test_a_changed_tag_is_named(served_chain: Chain) -> None:
    from mlflow import MlflowClient

    client, name = MlflowClient(), "distillery/teacher_sha256"
    before = client.get_model_version("distillery-student", "1").tags[name]
    client.set_model_version_tag("distillery-student", "1", name, "0" * 64)
    try:
        with pytest.raises(StoreError, match="^The chain is broken at the version: its tag says teacher_sha256"):
            audit(VERSION)
    finally:
        client.set_model_version_tag("distillery-student", "1", name, before)


def test_a_store_that_is_down_is_unreachable_and_no_break(served_chain: Chain, ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("DISTILLERY_S3_PATIENCE", "1")
    found = {link.name: link.state for link in audit(VERSION)}
    assert {name for name, state in found.items() if state == "ok"} == {"version", "served model", "student"}
    assert set(found.values()) == {"ok", "unreachable"}


def again(chain: Chain, name: str, folder: Path) -> None:
    """The register step once more, for a model of another name; its own store is a folder, so that only MLflow can fail it."""
    made = chain.folder / chain.run
    with replace(chain, store=str(folder / "store")).environment():
        sections = chain.sections["registration"]
        registration = {**sections, "registration": {**sections["registration"], "model_name": name}}
        inputs = register.Inputs(student=chain.student, report=made / "report.json")
        register.run(registration, inputs, register.Outputs(registration=folder / "registration.json"))


def refused(chain: Chain, folder: Path) -> str:
    """The sentence of a registration that fails; afterwards nothing of it is there."""
    name = f"digits-{secrets.token_hex(3)}"
    with pytest.raises(StoreError, match=rf"^The student was not registered as '{name}', because MLflow at .* step again\.$") as error:
        again(chain, name, folder)
    assert "\n" not in str(error.value)
    assert not (folder / "registration.json").exists()
    return name


def nothing_of(name: str) -> None:
    from mlflow import MlflowClient

    assert list(MlflowClient().search_registered_models(f"name = '{name}'")) == []


def test_a_server_that_is_down(served_chain: Chain, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    mlflow_server.stop()
    try:
        name = refused(served_chain, tmp_path)
        with pytest.raises(StoreError, match=r"^MLflow at .* does not give the version distillery-student:1"):
            audit(VERSION)
    finally:
        mlflow_server.start()
    nothing_of(name)
    again(served_chain, name, tmp_path)


def test_a_database_that_is_down(served_chain: Chain, postgres: Postgres, tmp_path: Path) -> None:
    postgres.stop()
    try:
        name = refused(served_chain, tmp_path)
    finally:
        postgres.start()
    nothing_of(name)


def test_a_bucket_that_is_down(served_chain: Chain, ceph: Ceph, tmp_path: Path) -> None:
    ceph.kill_gateway()
    try:
        name = refused(served_chain, tmp_path)
    finally:
        ceph.settle()
    nothing_of(name)
    assert {link.state for link in audit(VERSION)} == {"ok"}
