"""What `prune` leaves is what an audit needs: every registered student's chain holds before and after, whoever ran the steps."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chains import Chain, changed, flip
from distillery.documents import seal
from distillery.errors import ConfigError, StoreError
from distillery.ledger.audit import audit
from distillery.ledger.prune import Inventory, prune
from distillery.ledger.runs import RunState, list_runs
from distillery.provenance import sha256_file
from distillery.storage import open_store
from distillery_kfp.pipelines.cli.app import app

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        yield root


@pytest.fixture(scope="module")
def _made(root: Path) -> tuple[Chain, ...]:
    """Three chains as a cluster leaves them: their steps ran, and no runner has noted anything."""
    store = str(root / "store")
    offline, online = Chain(root, "ls_gdfd/digits", store, "offline"), Chain(root, "fast_dfkd/digits", store, "online")
    away = Chain(root, "ls_gdfd/digits", store, "away", more={"synthesis.config.rate": 0.002})
    return offline.make(), online.make(), away.make()


@pytest.fixture
def chains(_made: tuple[Chain, ...], root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Chain, ...]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    return _made


def states(number: int) -> dict[str, str]:
    return {link.name: link.state for link in audit(f"distillery-student:{number}")}


def tree(folder: str) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}


def test_every_registered_student_is_audited_as_well_after_as_before(chains: tuple[Chain, ...]) -> None:
    store = open_store(chains[0].store)
    before = [states(number) for number in (1, 2, 3)]
    assert [set(found.values()) for found in before] == [{"ok"}] * 3
    kept = tree(chains[0].store)
    for step in ("train_generator", "train_student", "distill_online", "materialize"):
        key = store.list(f"checkpoints/{step}")[0].split("/")[2]
        for name in ("latest.json", "payloads/one.pt", "snapshots/one.pt", "lists/one.json", "history/000000.json"):
            store.write(f"checkpoints/{step}/{key}/{name}", b"left over")
        store.write(f"checkpoints/{step}/{'0' * 64}/latest.json", b"of nobody")
    done = CliRunner().invoke(app, ["prune", "--store", store.uri, "--workdir", str(chains[0].folder / "work"), "--yes"])
    assert done.exit_code == 0, done.output
    assert tree(chains[0].store) == kept
    assert {key.rpartition("/")[2] for key in kept} >= {"history.json", "state.safetensors", "manifest.json"}
    assert [states(number) for number in (1, 2, 3)] == before
    for run in list_runs(store):
        assert {link.state for link in audit(f"{store.uri}/{run.results['student']}", store.uri)} == {"ok"}


def test_a_run_is_finished_by_its_register_step(chains: tuple[Chain, ...]) -> None:
    assert {run.id: run.standing for run in list_runs(open_store(chains[0].store))} == dict.fromkeys(
        ("offline", "online", "away"), "finished"
    )


def test_a_run_of_a_cluster_says_where_everything_is(chains: tuple[Chain, ...]) -> None:
    shown = CliRunner().invoke(app, ["runs", "away", "--store", chains[2].store, "--json"])
    row = json.loads(shown.stdout)
    assert (Path(row["student"]) / "bundle.json").read_bytes() == (chains[2].student / "bundle.json").read_bytes()
    made = next(link for link in audit("distillery-student:3") if link.name == "set")
    assert sha256_file(Path(row["set"]) / "manifest.json") == made.sha256
    assert 0 <= row["agreement"] <= 1
    assert Path(row["evaluation"]).is_file()
    assert Path(row["page"]).read_text().startswith("<!DOCTYPE html>")


def test_a_byte_changed_in_what_a_cluster_left_is_found(chains: tuple[Chain, ...]) -> None:
    student = Path(next(run.results["student"] for run in list_runs(open_store(chains[2].store)) if run.id == "away"))
    weights = Path(chains[2].store) / student / "weights.safetensors"
    for subject in ("distillery-student:3", str(weights.parent)):
        with changed(weights, flip(weights.read_bytes())), pytest.raises(StoreError, match="broken at the student: weights.safetensors"):
            audit(subject, chains[2].store)


def test_a_run_that_registered_a_student_cannot_be_given_up(chains: tuple[Chain, ...], tmp_path: Path) -> None:
    """Neither where its runner was killed before it could say so."""
    away, store = chains[2], open_store(chains[2].store)
    key = f"runs/{away.run}/run.json"
    whole = store.read(key)
    stopped = {**json.loads(whole), "state": replace(RunState.here("stopped", tmp_path, store), host="elsewhere").to_json()}
    store.write(key, seal(stopped))
    try:
        with pytest.raises(ConfigError, match="'away' is finished and cannot be given up"):
            Inventory(store, tmp_path, [away.run])
    finally:
        store.write(key, whole)


def test_a_run_that_registered_keeps_its_work_though_an_equal_one_finished_too(chains: tuple[Chain, ...], tmp_path: Path) -> None:
    """It may have worked on other hardware, under other keys."""
    away, store = chains[2], open_store(chains[2].store)
    key = f"runs/{away.run}/run.json"
    whole = store.read(key)
    twin = json.loads(store.read(f"runs/{chains[0].run}/run.json"))
    stopped = {**json.loads(whole), "state": RunState.here("stopped", tmp_path, store).to_json()}
    store.write(key, seal({**stopped, "sections": twin["sections"], "parameters": twin["parameters"]}))
    try:
        inventory = Inventory(store, tmp_path)
        prune(inventory, inventory.garbage())
    finally:
        store.write(key, whole)
    assert states(3)["generator"] == "ok"
