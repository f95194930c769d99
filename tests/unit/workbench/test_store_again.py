"""A store that is used again: copied to another place it lists and uses its own places, and damage in it is said, not adopted."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chains import Chain, away, changed, flip
from distillery.data.reference import open_reference, read_reference
from distillery.data.store import SyntheticSet
from distillery.errors import StoreError
from distillery.ledger.audit import audit
from distillery.ledger.runs import LOCK, RunState, amend_run, find_run, list_runs, place_in_store, read_run, write_run
from distillery.models.bundle import load_classifier
from distillery.provenance import dump_json
from distillery.storage import MemoryStore, open_store
from distillery.storage.locks import lock
from distillery.workbench.students import keep_student
from distillery_kfp.pipelines.cli.app import app
from distillery_kfp.pipelines.runner.resume import workspace_of


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("first")
    return Chain(folder, "ls_gdfd/digits", str(folder / "store")).make()


@contextmanager
def copied(chain: Chain) -> Iterator[Chain]:
    """The same chain with a copy of its store, of which the original is out of reach."""
    place = chain.folder / "copy" / "of-store"
    shutil.copytree(chain.store, place)
    try:
        with away(Path(chain.store)):
            yield replace(chain, store=str(place), run="run-2")
    finally:
        shutil.rmtree(place)


def rows(store: str) -> list[dict[str, Any]]:
    shown = CliRunner().invoke(app, ["runs", "--store", store, "--json"])
    assert shown.exit_code == 0, shown.output
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def test_a_copied_store_lists_its_own_places(chain: Chain) -> None:
    with copied(chain) as copy:
        (row,) = rows(copy.store)
        assert {name: Path(row[name]).is_relative_to(copy.store) for name in ("student", "evaluation", "set")} == dict.fromkeys(
            ("student", "evaluation", "set"), True
        )
        assert load_classifier(Path(row["student"])).num_classes == 3
        assert SyntheticSet.open(row["set"]).manifest.images > 0
        assert chain.store not in json.dumps({**row, "host": ""})
        assert {link.state for link in audit(row["student"])} == {"ok"}
        for arguments in (["verify", row["set"]], ["inspect", row["set"]], ["compare", "last", "last", "--store", copy.store]):
            assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_record_from_before_names_the_set_in_the_store_that_is_read(chain: Chain) -> None:
    path = Path(chain.store, "runs", chain.run, "run.json")
    made = json.loads(path.read_bytes())
    uri = read_reference(chain.folder / chain.run / "set").uri
    assert uri.startswith(chain.store)
    dataset = {"format": "distillery-set-reference", "version": 1, "uri": uri, "sha256": "0" * 64, "provenance": {"code_version": "c"}}
    first = {**made, "version": 1, "results": {**made["results"], "dataset": dataset}}
    del first["document_sha256"]
    with changed(path, dump_json(first)), copied(chain) as copy:
        assert rows(copy.store)[0]["set"] == f"{copy.store}/{place_in_store(uri)}"
    other = {**dataset, "uri": "s3://old/prefix/" + place_in_store(uri)}
    store = MemoryStore()
    store.write("runs/run-1/run.json", dump_json({**first, "results": {"dataset": other}}))
    assert find_run(store, "run-1").to_json("s3://new")["set"] == f"s3://new/{place_in_store(uri)}"


def test_a_store_that_was_moved_into_a_bucket_lists_what_is_there(chain: Chain) -> None:
    store, here = MemoryStore(), open_store(chain.store)
    for key in here.list("runs"):
        store.write(key, here.read(key))
    (run,) = list_runs(store)
    row = run.to_json("s3://bucket/store")
    assert [row[name].startswith("s3://bucket/store/") for name in ("student", "evaluation", "set")] == [True] * 3
    assert run.standing == "finished"


def test_a_reference_that_an_older_run_kept_is_to_the_set_of_its_store(chain: Chain) -> None:
    with copied(chain) as copy:
        kept = Path(copy.store, "checkpoints", "materialize", "key", "outputs", "set")
        shutil.copytree(chain.folder / chain.run / "set", kept)
        assert read_reference(kept).uri.startswith(chain.store)
        assert Path(open_reference(kept).store.uri).is_relative_to(copy.store)
        assert CliRunner().invoke(app, ["verify", str(kept)]).exit_code == 0


def test_work_goes_on_in_the_copy_with_what_lies_there(chain: Chain) -> None:
    with copied(chain) as copy:
        copy.make()
        reference = read_reference(copy.folder / copy.run / "set")
        assert Path(reference.uri).is_relative_to(copy.store)
        assert SyntheticSet.open(reference.uri).digest == reference.sha256
        assert {row["run"]: row["set"] for row in rows(copy.store)} == dict.fromkeys(("run-1", "run-2"), reference.uri)


def test_nobody_works_at_the_copy_of_a_run_that_goes_on(tmp_path: Path, chain: Chain) -> None:
    original, copy = tmp_path / "store", tmp_path / "copy"
    shutil.copytree(Path(chain.store, "runs"), original / "runs")
    workspace, here = tmp_path / "work", open_store(str(original))
    record = read_run(here.read("runs/run-1/run.json"), "it")
    fields = {name: value for name, value in record.fields.items() if name != "results"}
    write_run(here, "run-1", record.provenance, fields)
    amend_run(here, "run-1", {"state": RunState.here("running", workspace, here).to_json()})
    with lock(workspace / LOCK, "the original"):
        shutil.copytree(original, copy)
        (tmp_path / "link").symlink_to(original)
        there = open_store(str(copy))
        assert [find_run(open_store(str(place)), "run-1").standing for place in (original, tmp_path / "link", copy)] == [
            *("running", "running"),
            "stopped",
        ]
        assert workspace_of(find_run(here, "run-1"), here, tmp_path / "beside") == workspace
        assert workspace_of(find_run(there, "run-1"), there, tmp_path / "beside") == tmp_path / "beside"
    elsewhere = {**RunState.here("running", workspace, here).to_json(), "host": "elsewhere"}
    amend_run(there, "run-1", {"state": elsewhere})
    assert find_run(there, "run-1").standing == "running"  # that machine may know this very store by another name


@pytest.mark.parametrize("recipe", ["ls_gdfd/digits", "fast_dfkd/digits"])
def test_a_run_repeated_over_a_damaged_shard_says_so(recipe: str, tmp_path: Path) -> None:
    chain = Chain(tmp_path, recipe, str(tmp_path / "store")).make()
    for shard in sorted((tmp_path / "store").glob("sets/*/shards/*")):
        with (
            changed(shard, flip(shard.read_bytes())),
            pytest.raises(StoreError, match=f"{shard.name}' is not whole in .*to make the set again"),
        ):
            replace(chain, run="again").make()
        with changed(shard, None), pytest.raises(StoreError, match=f"{shard.name}' is not whole"):
            replace(chain, run="again").make()
    manifest = next((tmp_path / "store").glob("sets/*/manifest.json"))
    with changed(manifest, flip(manifest.read_bytes())), pytest.raises(StoreError, match="cannot be published at"):
        replace(chain, run="again").make()
    named = shard.parent.parent.name
    with changed(shard, flip(shard.read_bytes())):
        for folder in [*(tmp_path / "store").glob(f"checkpoints/*/{named}"), shard.parent.parent]:
            shutil.rmtree(folder)  # as the sentence says
        replace(chain, run="again").make()
        SyntheticSet.open(str(tmp_path / "store" / "sets" / named)).verify()


def test_a_student_that_was_damaged_in_the_store_is_written_anew(chain: Chain) -> None:
    store = MemoryStore()
    key = keep_student(store, chain.student)
    assert key == chain.key
    for name in ("weights.safetensors", "bundle.json", "best/weights.safetensors"):
        whole = store.read(f"{key}/{name}")
        store.write(f"{key}/{name}", flip(whole))
        assert keep_student(store, chain.student) == key
        assert store.read(f"{key}/{name}") == whole
