"""The register step ends a run the same way whoever runs it, however often, and whoever comes between."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buckets import Bucket, Killed, Turns, killing
from chains import Chain
from distillery.documents import seal
from distillery.ledger.audit import audit
from distillery.ledger.runs import find_run
from distillery.steps import register
from distillery.storage import open_store
from distillery_kfp.pipelines.runner.local import _Run
from distillery_kfp.pipelines.runner.request import RunRequest

NOTED_BY_A_RUNNER = ("began", "seconds", "state", "document_sha256")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """An offline chain in a folder."""
    folder = tmp_path_factory.mktemp("chain")
    return Chain(folder, "ls_gdfd/digits", str(folder / "store")).make()


def objects_of(store: str, leave_out: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every object of a folder, but those below some of its folders."""
    opened = open_store(store)
    return {key: opened.read(key) for key in opened.list() if not key.startswith(leave_out)}


def before_the_end(chain: Chain) -> dict[str, bytes]:
    """The store as the register step finds it."""
    objects = objects_of(chain.store, ("students/", f"runs/{chain.run}/opened/register/"))
    record = f"runs/{chain.run}/run.json"
    objects[record] = seal({name: value for name, value in json.loads(objects[record]).items() if name != "results"})
    return objects


def end(chain: Chain, out: Path) -> dict[str, Any]:
    """Run the step again in a store of whoever calls."""
    made = chain.folder / chain.run
    inputs = register.Inputs(student=chain.student, report=made / "report.json")
    return register.run(chain.sections["registration"], inputs, register.Outputs(registration=out / "registration.json"))


@contextmanager
def reached(bucket: Bucket, chain: Chain) -> Iterator[Bucket]:
    """The bucket as the step's store, and a workspace for each worker, so that no lock is met."""
    with pytest.MonkeyPatch.context() as patch, chain.environment():
        patch.setenv("DISTILLERY_STORE", "s3://bucket")
        patch.setattr("distillery.workbench.bench.open_store", bucket.opened)
        patch.setattr("distillery.workbench.bench.workspace", lambda: chain.folder / f"work of {threading.current_thread().name}")
        yield bucket


def test_a_runner_adds_nothing_but_when_and_where_it_ran(chain: Chain) -> None:
    cluster = objects_of(chain.store)
    request = RunRequest(chain.recipe, str(chain.teacher), chain.store, chain.folder / "work", run_id=chain.run)
    result = _Run(request, "generative_distillation", open_store(chain.store)).close()
    local = objects_of(chain.store)
    record = f"runs/{chain.run}/run.json"
    assert {key for key in local if local[key] != cluster.get(key)} == {record}
    assert local.keys() == cluster.keys()
    said = [{name: value for name, value in json.loads(one[record]).items() if name not in NOTED_BY_A_RUNNER} for one in (cluster, local)]
    assert said[0] == said[1]
    assert {f"{chain.key}/{name}" for name in ("bundle.json", "weights.safetensors", "best/bundle.json")} <= local.keys()
    assert (result.student, result.uri) == (Path(chain.store, chain.key), f"{chain.store}/{chain.key}")
    assert result.dataset["kind"] == "set"
    assert Path(result.dataset["uri"], "manifest.json").is_file()
    assert result.report == Path(chain.store, "runs", chain.run, "evaluation.json")
    assert {link.state for link in audit(result.uri)} == {"ok"}


def test_what_is_noted_is_what_was_made(chain: Chain) -> None:
    steps = Path(chain.store, "runs", chain.run, "steps")
    (drawn,) = (json.loads(path.read_bytes()) for path in steps.glob("materialize-*.json"))
    assert find_run(open_store(chain.store), chain.run).results == {
        "student": chain.key,
        "evaluation": f"runs/{chain.run}/evaluation.json",
        "page": f"runs/{chain.run}/report.html",
        "dataset": {"place": f"sets/{drawn['key']}", "sha256": drawn["outputs"]["set"]["manifest.json"]},
    }


def test_killed_in_any_of_its_writes_it_ends_as_one_left_alone(chain: Chain, tmp_path: Path) -> None:
    requests: list[str] = []
    with reached(Bucket(before_the_end(chain), watch=lambda kind, key: requests.append(f"{kind} {key}")), chain) as bucket:
        fields = end(chain, tmp_path / "alone")
        whole = dict(bucket.objects)
    assert [request for request in requests if request.startswith("write students/")][-1] == f"write {chain.key}/bundle.json"
    assert requests[-1] == f"write runs/{chain.run}/run.json"
    for number in range(1, len(requests) + 1):
        objects = before_the_end(chain)
        with pytest.raises(Killed), reached(Bucket(objects, watch=killing(number)), chain):
            end(chain, tmp_path / "killed")
        assert "results" not in json.loads(objects[f"runs/{chain.run}/run.json"])
        with reached(Bucket(objects), chain):
            assert end(chain, tmp_path / "again") == fields
        assert objects == whole, requests[number - 1]


def test_two_workers_who_come_between_each_other_leave_what_one_leaves(chain: Chain, tmp_path: Path) -> None:
    with reached(Bucket(before_the_end(chain)), chain) as bucket:
        end(chain, tmp_path / "alone")
        whole = dict(bucket.objects)
    orders = set()
    for seed in range(8):
        turns, order = Turns(seed), []

        def watch(kind: str, key: str, turns: Turns = turns, order: list[str] = order) -> None:
            order.append(threading.current_thread().name)
            turns.watch(kind, key)

        with reached(Bucket(before_the_end(chain), watch=watch), chain) as bucket:
            assert turns.play({name: partial(end, chain, tmp_path / name) for name in ("0", "1")}) == {}
        assert bucket.objects == whole
        written = [(tmp_path / name / "registration.json").read_bytes() for name in ("0", "1")]
        assert written[0] == written[1]
        orders.add("".join(order))
    assert len(orders) > 1, "they never came between each other"
