"""What must stay in a store and what may go: by table, by chance, and beside somebody who works there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import ConfigError
from distillery.ledger.prune import Inventory, prune
from distillery.provenance import load_json
from distillery.storage import FolderStore, MemoryStore, Store
from distillery.storage.locks import lock
from distillery.storage.s3 import S3Store
from distillery.workbench.openings import Work, lock_of
from made_up_runs import MadeUp, digest


@dataclass(frozen=True)
class Case:
    """A store, and the beginning of the keys that must be gone after all garbage was dropped; all others must stay."""

    fill: Callable[[MadeUp], object]
    gone: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()


def of_run(state: str, *parts: Callable[[MadeUp], object]) -> Callable[[MadeUp], None]:
    """A run of that standing, marked as working at `train_student/k` and `materialize/k`."""

    def fill(made: MadeUp) -> None:
        made.run("one", state)
        made.mark("one", "train_student", "k")
        made.mark("one", "materialize", "k")
        for part in parts:
            part(made)

    return fill


def superseded(made: MadeUp) -> None:
    made.run("one", "stopped", work="same")
    made.mark("one", "train_student", "old")
    made.run("two", "finished", work="same")
    made.mark("two", "train_student", "k")


def damaged(made: MadeUp) -> None:
    made.store.write("runs/one/run.json", b"{")
    made.unfinished("train_student", "k")


CHECKPOINT, RESULT = "checkpoints/train_student/k", "checkpoints/train_student/k"
OTHERS, BEFORE = f"{RESULT}/outputs/synthesizer/aa/file", f"{RESULT}/outputs/synthesizer/file"
CASES = {
    "checkpoint of nobody": Case(lambda made: made.unfinished("train_student", "k"), (CHECKPOINT,)),
    "checkpoint of a stopped run": Case(of_run("stopped", lambda made: made.unfinished("train_student", "k"))),
    "checkpoint of a failed run": Case(of_run("failed", lambda made: made.unfinished("train_student", "k"))),
    "checkpoint of a running run": Case(of_run("running", lambda made: made.unfinished("train_student", "k"))),
    "checkpoint of a run without a state": Case(of_run("", lambda made: made.unfinished("train_student", "k"))),
    "checkpoint of a finished run": Case(of_run("finished", lambda made: made.unfinished("train_student", "k")), (CHECKPOINT,)),
    "checkpoint of another step": Case(
        of_run("stopped", lambda made: made.unfinished("train_generator", "k")), ("checkpoints/train_generator/k",)
    ),
    "checkpoint of nobody beside a run on a cluster": Case(
        of_run("", lambda made: made.unfinished("train_student", "j")), ("checkpoints/train_student/j",)
    ),
    "checkpoint of a run given up": Case(
        of_run("stopped", lambda made: made.unfinished("train_student", "k")), (CHECKPOINT, "runs/one"), ("one",)
    ),
    "outputs of a worker who was not the first": Case(
        of_run("stopped", lambda made: (made.finished("train_student", "k"), made.store.write(OTHERS, b"x"))),
        (OTHERS,),
    ),
    "outputs that lie as they did before": Case(
        of_run("stopped", lambda made: (made.finished("train_student", "k"), made.store.write(BEFORE, b"x")))
    ),
    "superseded": Case(
        lambda made: (superseded(made), made.unfinished("train_student", "old"), made.finished("train_student", "k")),
        ("checkpoints/train_student/old",),
    ),
    "left over in finished work": Case(
        of_run("finished", lambda made: (made.finished("train_student", "k"), made.unfinished("train_student", "k"))),
        ("checkpoints/train_student/k/latest.json", "checkpoints/train_student/k/payloads"),
    ),
    "result of nobody": Case(lambda made: made.finished("train_student", "k", student=digest("s")), (RESULT,)),
    "result of a finished run": Case(of_run("finished", lambda made: made.finished("train_student", "k"))),
    "result of a student": Case(lambda made: (made.finished("train_student", "k", student=digest("s")), made.student("s"))),
    "result that a student was made from": Case(
        lambda made: (made.finished("extract_statistics", "k", statistics=digest("m")), made.student("s", statistics=digest("m")))
    ),
    "result that a set was made from": Case(
        lambda made: (
            made.finished("extract_statistics", "k", statistics=digest("m")),
            made.finished("train_generator", "k", synthesizer=digest("g")),
            made.set("other", statistics=digest("m"), synthesizer=digest("g")),
        )
    ),
    "result that cannot be read": Case(
        lambda made: (made.finished("train_student", "k"), made.store.write("checkpoints/train_student/k/result.json", b"{"))
    ),
    "unpublished set of nobody": Case(lambda made: made.set("k", published=False), ("sets/k",)),
    "unpublished set of a stopped run": Case(of_run("stopped", lambda made: made.set("k", published=False))),
    "unpublished set of another key": Case(of_run("stopped", lambda made: made.set("j", published=False)), ("sets/j",)),
    "published set of nobody": Case(lambda made: made.set("k")),
    "stray shard": Case(
        lambda made: (made.set("k"), made.store.write("sets/k/shards/stray.safetensors", b"x")), ("sets/k/shards/stray.safetensors",)
    ),
    "set with a damaged manifest": Case(lambda made: (made.set("k"), made.store.write("sets/k/manifest.json", b"{"))),
    "set of which a shard is gone": Case(
        lambda made: (
            made.set("k"),
            made.store.delete(f"sets/k/shards/{digest('k 0')}.safetensors"),
            made.store.write("sets/k/shards/stray.safetensors", b"x"),
        )
    ),
    "outputs beside one that is gone": Case(
        lambda made: (
            of_run("finished", lambda made: made.finished("train_student", "k", synthesizer="a"))(made),
            [made.store.delete(key) for key in made.store.list(f"{RESULT}/outputs")],
            made.store.write(OTHERS, b"x"),
        )
    ),
    "finished work that nobody names beside a damaged set": Case(
        lambda made: (made.finished("train_generator", "k"), made.set("j"), made.store.write("sets/j/manifest.json", b"{"))
    ),
    "student of nobody": Case(lambda made: made.student("s")),
    "half a student": Case(lambda made: made.student("s", whole=False), ("students/",)),
    "half a student while a run ends": Case(of_run("running", lambda made: made.student("s", whole=False))),
    "run that does not say what it works at": Case(lambda made: (made.run("one"), made.unfinished("train_student", "k"))),
    "run that stopped before it worked": Case(
        lambda made: (made.run("one", "stopped"), made.unfinished("train_student", "k")), (CHECKPOINT,)
    ),
    "damaged record": Case(damaged),
    "remains of a run": Case(lambda made: made.mark("one", "train_student", "k"), ("runs/one",)),
    "files that are none of ours": Case(
        lambda made: [
            made.store.write(key, b"x") for key in ("notes.txt", "sets/kept.json", "checkpoints/a", "runs/b", "students/c", "d/e/f")
        ]
    ),
}


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list()}


@pytest.mark.parametrize("kind", ["memory", "folder"])
@pytest.mark.parametrize("name", CASES)
def test_what_stays_and_what_goes(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = MadeUp(tmp_path / "work", MemoryStore() if kind == "memory" else FolderStore(tmp_path / "store"))
    case.fill(made)
    before = contents(made.store)
    expected = {key: data for key, data in before.items() if not key.startswith(case.gone or "\0")}
    inventory = Inventory(made.store, made.workspace, case.forget)
    garbage = inventory.garbage()
    assert contents(made.store) == before
    assert sum(item.bytes for item in garbage) == sum(len(data) for key, data in before.items() if key not in expected)
    assert all(item.reason for item in garbage)
    done = prune(inventory, garbage)
    assert contents(made.store) == expected
    assert (len(done.dropped), done.busy) == (len(garbage), ())
    assert Inventory(made.store, made.workspace).garbage() == []
    if isinstance(made.store, FolderStore) and not expected:
        assert list(made.store.root.rglob("*")) == []


def test_a_bucket_is_pruned_as_a_folder_is(bucket: str, tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "work", S3Store(bucket, "store"))
    made.run("halted", "stopped")
    made.mark("halted", "train_student", "k")
    kept = {made.unfinished("train_student", "k"), made.set("a"), made.student("s")}
    gone = {made.unfinished("train_student", "j"), made.set("b", published=False)}
    inventory = Inventory(made.store, made.workspace)
    assert {item.place for item in prune(inventory, inventory.garbage()).dropped} == gone
    assert {key.rpartition("/")[0].removesuffix("/shards").removesuffix("/payloads") for key in made.store.list()} == {
        *kept,
        "runs/halted",
        "runs/halted/opened/train_student",
    }


@pytest.mark.parametrize("state", ["finished", "running"])
def test_only_an_open_run_is_given_up(state: str, tmp_path: Path) -> None:
    made = MadeUp(tmp_path)
    made.run("one", state)
    with pytest.raises(ConfigError, match=f"'one' is {state}"):
        Inventory(made.store, tmp_path, ["one"])
    with pytest.raises(ConfigError, match="no run 'two'"):
        Inventory(made.store, tmp_path, ["two"])


def test_what_a_process_of_this_workspace_works_at_stays(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "work")
    held, other = made.unfinished("train_student", "k"), made.unfinished("train_student", "j")
    inventory = Inventory(made.store, made.workspace)
    with lock(made.workspace / lock_of(Work("train_student", "k")), "a step"):
        done = prune(inventory, inventory.garbage())
    assert [item.place for item in done.busy] == [held]
    assert [item.place for item in done.dropped] == [other]
    assert made.store.list() == [f"{held}/latest.json", f"{held}/payloads/one.pt"]


@pytest.mark.parametrize("marked", [True, False])
def test_a_run_that_began_after_the_look_keeps_its_work(marked: bool, tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "work")
    made.unfinished("train_student", "k")
    inventory = Inventory(made.store, made.workspace)
    garbage = inventory.garbage()
    made.run("new", "running")
    if marked:
        made.mark("new", "train_student", "k")
    assert prune(inventory, garbage).dropped == ()
    assert made.store.exists("checkpoints/train_student/k/payloads/one.pt")


def test_a_step_that_comes_amid_a_deletion_starts_anew(tmp_path: Path) -> None:
    made = MadeUp(tmp_path)
    made.unfinished("train_student", "a")
    made.finished("train_student", "b")
    first = {item.place: item.keys[0] for item in Inventory(made.store, tmp_path).garbage()}
    assert first == {
        "checkpoints/train_student/a": "checkpoints/train_student/a/latest.json",
        "checkpoints/train_student/b": "checkpoints/train_student/b/result.json",
    }


def test_copies_in_the_workspace_go_unless_an_open_run_needs_them(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "work")
    made.run("ended", "finished")
    made.run("halted", "stopped")
    for name in (f"bundles/{digest('teacher')}", f"bundles/{digest('old')}", "kfp/ended", "kfp/halted", "kfp/unknown"):
        (made.workspace / name).mkdir(parents=True)
        (made.workspace / name / "file").write_bytes(b"12345")
    inventory = Inventory(made.store, made.workspace)
    with lock(made.workspace / "locks/run.lock", "a run"):
        assert prune(inventory, inventory.garbage()).dropped == ()
    done = prune(inventory, inventory.garbage())
    assert [(item.place, item.bytes) for item in done.dropped] == [
        (str(made.workspace / f"bundles/{digest('old')}"), 5),
        (str(made.workspace / "kfp/ended"), 5),
    ]
    assert sorted(path.parent.name for path in made.workspace.rglob("file")) == sorted([digest("teacher"), "halted", "unknown"])


KEYS, STEPS, RUNS = st.sampled_from("abcd"), st.sampled_from(["train_generator", "materialize", "distill_online"]), st.sampled_from("123")
ACTIONS = st.one_of(
    st.tuples(st.just("run"), RUNS, st.sampled_from(["", "running", "stopped", "failed", "finished"]), st.sampled_from("xyz")),
    st.tuples(st.just("mark"), RUNS, STEPS, KEYS),
    st.tuples(st.just("unfinished"), STEPS, KEYS),
    st.tuples(st.just("finished"), STEPS, KEYS, st.sampled_from("ghi")),
    st.tuples(st.just("set"), KEYS, st.booleans(), st.sampled_from("ghi")),
    st.tuples(st.just("student"), KEYS, st.booleans(), st.sampled_from("ghi")),
)


def perform(made: MadeUp, action: tuple[object, ...]) -> None:
    match action:
        case ("run", str(name), str(state), str(work)):
            made.run(name, state, work=work)
        case ("mark", str(run), str(step), str(key)):
            made.mark(run, step, key)
        case ("unfinished", str(step), str(key)):
            made.unfinished(step, key)
        case ("finished", str(step), str(key), str(output)):
            made.finished(step, key, synthesizer=digest(output))
        case ("set", str(key), bool(published), str(source)):
            made.set(key, published=published, synthesizer=digest(source))
        case ("student", str(name), bool(whole), str(source)):
            made.student(name, whole, synthesizer=digest(source))


def referenced(store: Store) -> set[str]:
    """Every key that somebody refers to, found the slow way round: from what refers."""
    keys = store.list()
    documents = {key: load_json(store.read(key), key) for key in keys if key.endswith((".json",))}
    records = {key.split("/")[1]: value for key, value in documents.items() if key.endswith("/run.json")}
    plans = {str(value["sections"]) for value in records.values() if "results" in value}
    kept = {key for key in keys if key.startswith("runs/") and key.split("/")[1] in records}
    for key in (key for key in keys if "/opened/" in key and key.split("/")[1] in records):
        run, step, name = key.split("/")[1], *key.removesuffix(".json").split("/")[3:]
        finished = "results" in records[run]
        if (
            not finished
            and str(records[run]["sections"]) in plans
            and "state" in records[run]
            and records[run]["state"]["name"] != "running"
        ):
            continue
        done = f"checkpoints/{step}/{name}/result.json" in keys
        part = ("result.json", "outputs/") if done else () if finished else ("",)
        kept |= {other for other in keys if other.startswith(tuple(f"checkpoints/{step}/{name}/{begin}" for begin in part) or "\0")}
        kept |= {
            other for other in keys if other.startswith(f"sets/{name}/") and not finished and step in ("materialize", "distill_online")
        }
    named = set()
    for key, document in documents.items():
        folder = key.rpartition("/")[0]
        if key.endswith("/manifest.json"):
            kept |= {key, *(f"{folder}/shards/{entry['sha256']}.safetensors" for entry in document["shards"])}
            named.add(document["synthesizer_sha256"])
        elif key.endswith("/bundle.json"):
            kept |= {other for other in keys if other.startswith(f"{folder}/")}
            named |= set(document["provenance"]["inputs"].values())
    for key, document in documents.items():
        if key.endswith("/result.json") and document["result"]["outputs"]["synthesizer"][""] in named:
            kept |= {key, *(other for other in keys if other.startswith(f"{key.rpartition('/')[0]}/outputs/"))}
    return kept & set(keys)


@settings(max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=14))
def test_nothing_that_is_referred_to_ever_goes(actions: list[tuple[object, ...]], tmp_path_factory: pytest.TempPathFactory) -> None:
    made = MadeUp(tmp_path_factory.getbasetemp() / "nowhere")
    for action in actions:
        perform(made, action)
    kept = referenced(made.store)
    before = contents(made.store)
    inventory = Inventory(made.store, made.workspace)
    prune(inventory, inventory.garbage())
    after = contents(made.store)
    assert kept <= set(after)
    assert after.items() <= before.items()
