"""The chain behind a registered student, whole and with each link broken once."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chains import Chain, away, changed, flip, make_teacher
from distillery.documents import seal
from distillery.errors import ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.ledger.audit import audit
from distillery.models.bundle import load_classifier, read_bundle
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.statistics.extract import global_moments
from distillery.statistics.moments import save_moments
from distillery.workbench.keys import STATE_FORMAT
from distillery_kfp.pipelines.cli.app import app

pytestmark = pytest.mark.timeout(300)

NAMES = ["version", "served model", "student", "report", "run", "set", "generator", "statistics", "teacher"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def _registry(root: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        yield f"sqlite:///{root / 'mlflow.db'}"


@pytest.fixture(scope="module")
def _made(root: Path, _registry: str) -> tuple[Chain, Chain]:
    offline, online = (Chain(root, recipe, str(root / "store"), recipe[:4]) for recipe in ("ls_gdfd/digits", "fast_dfkd/digits"))
    return offline.make(), online.make()


@pytest.fixture
def chain(_made: tuple[Chain, Chain], _registry: str, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """The offline one, version 1."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _registry)
    return _made[0]


@pytest.fixture
def online(chain: Chain, _made: tuple[Chain, Chain]) -> Chain:
    """Version 2."""
    return _made[1]


def states(subject: str, store: str = "") -> dict[str, str]:
    return {link.name: link.state for link in audit(subject, store)}


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def stored(chain: Chain, pattern: str) -> Path:
    """The one file of the offline chain's own outputs, never of the online one's."""
    store = Path(chain.store)
    record = {path.name.rsplit("-", 1)[0]: json.loads(path.read_bytes()) for path in (store / "runs" / chain.run / "steps").iterdir()}
    step, _, rest = pattern.partition("/")
    folder = "sets" if rest.startswith(("shards", "manifest")) else f"checkpoints/{step}"
    return one(store, f"{folder}/{record[step]['key']}/{rest}")


@contextmanager
def tagged(number: str, name: str, value: str) -> Iterator[None]:
    from mlflow import MlflowClient

    client = MlflowClient()
    before = client.get_model_version("distillery-student", number).tags[f"distillery/{name}"]
    client.set_model_version_tag("distillery-student", number, f"distillery/{name}", value)
    try:
        yield
    finally:
        client.set_model_version_tag("distillery-student", number, f"distillery/{name}", before)


def registered_file(chain: Chain, name: str) -> Path:
    for path in (chain.folder / "mlartifacts").rglob(name):
        bundle = next(parent / "bundle" / "bundle.json" for parent in path.parents if (parent / "MLmodel").exists())
        if sha256_bytes(bundle.read_bytes()) == chain.key.removeprefix("students/"):
            return path
    raise AssertionError(f"the registry has no {name}")


def test_every_link_of_both_pipelines_holds(chain: Chain, online: Chain) -> None:
    for subject in ("distillery-student:1", "distillery-student@challenger", "models:/distillery-student/2"):
        links = audit(subject)
        assert [link.name for link in links] == NAMES
        assert {link.state for link in links} == {"ok"}, links
        assert all(len(link.sha256) == 64 and link.where for link in links)
    for made in (chain, online):
        assert states(f"{made.store}/{made.key}") == dict.fromkeys(["student", *NAMES[4:]], "ok")


def test_what_was_made_before_the_states_had_another_format_is_no_broken_chain(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.workbench.keys.STATE_FORMAT", STATE_FORMAT + 1)
    assert set(states(f"{chain.store}/{chain.key}").values()) == {"ok"}


def test_a_bundle_outside_the_store_needs_to_be_told_where_the_store_is(chain: Chain) -> None:
    copy = shutil.copytree(chain.student, chain.folder / "elsewhere", dirs_exist_ok=True)
    assert states(str(copy))["student"] == "ok"
    assert {state for name, state in states(str(copy)).items() if name != "student"} == {"unreachable"}
    assert set(states(str(copy), chain.store).values()) == {"ok"}


def test_a_store_that_was_moved_is_audited_where_it_is_now(chain: Chain) -> None:
    moved = shutil.copytree(chain.store, chain.folder / "moved")
    with away(Path(chain.store)):
        assert set(states("distillery-student:1", str(moved)).values()) == {"ok"}
        assert [name for name, state in states("distillery-student:1").items() if state == "ok"] == ["version", "served model", "student"]


def test_what_nobody_can_be_asked_for_is_unreachable_and_no_break(chain: Chain) -> None:
    with away(chain.teacher):
        links = {link.name: link for link in audit("distillery-student:1")}
        assert {name for name, link in links.items() if link.state != "ok"} == {"teacher"}
        assert "There is no folder" in links["teacher"].note
        shown = CliRunner().invoke(app, ["audit", "distillery-student:1"])
        assert (shown.exit_code, "not reached: teacher" in shown.output) == (0, True)
        strict = CliRunner().invoke(app, ["audit", "distillery-student:1", "--strict"])
        assert "Not reached: teacher" in str(strict.exception)
    with away(chain.folder / "mlartifacts"):
        assert [name for name, state in states("distillery-student:1").items() if state != "ok"] == ["served model"]
        with away(Path(chain.store)), pytest.raises(MissingResourceError, match="No copy of the student can be read"):
            audit("distillery-student:1")


def edited(path: Path, edit: Callable[[Any], None]) -> AbstractContextManager[None]:
    document = json.loads(path.read_bytes())
    edit(document)
    return changed(path, seal(document))


def flipped(find: Callable[[Chain], Path]) -> Callable[[Chain], AbstractContextManager[None]]:
    return lambda chain: changed(find(chain), flip(find(chain).read_bytes()))


def gone(find: Callable[[Chain], Path]) -> Callable[[Chain], AbstractContextManager[None]]:
    return lambda chain: changed(find(chain), None)


def in_store(name: str) -> Callable[[Chain], Path]:
    return lambda chain: Path(chain.store, name.format(student=chain.key, run=f"runs/{chain.run}"))


def output(pattern: str) -> Callable[[Chain], Path]:
    return lambda chain: stored(chain, pattern)


def in_registry(name: str) -> Callable[[Chain], Path]:
    return lambda chain: registered_file(chain, name)


def step_record(step: str) -> Callable[[Chain], Path]:
    return lambda chain: one(Path(chain.store, "runs", chain.run, "steps"), f"{step}-*.json")


@contextmanager
def statistics_of_another_teacher(chain: Chain) -> Iterator[None]:
    """A sound file of moments, and a run's record that was made to agree with it."""
    other = make_teacher(chain.folder / "other", seed=1)
    moments, path = (
        global_moments(load_classifier(other), read_bundle(other)[1]),
        stored(chain, "extract_statistics/outputs/statistics/*/file"),
    )
    made = Provenance(inputs={"teacher": read_bundle(other)[1]}, code_version=code_version())
    sha256 = save_moments(chain.folder / "moments", moments, made)
    with ExitStack() as stack:
        stack.enter_context(changed(path, (chain.folder / "moments").read_bytes()))
        record = step_record("extract_statistics")(chain)
        stack.enter_context(edited(record, lambda document: document["outputs"]["statistics"].update({"": sha256})))
        yield


@contextmanager
def forged_set(chain: Chain) -> Iterator[None]:
    """A manifest without its last shard, sound in itself, and a run's record that was made to agree with it."""
    path = stored(chain, "materialize/manifest.json")
    document = json.loads(path.read_bytes())
    entry = document["shards"].pop(0)
    document["images"] -= entry["images"] if entry["role"] == "train" else 0
    document["shortfall"] = [0, 0, 0]
    with ExitStack() as stack:
        stack.enter_context(changed(path, seal(document)))
        sha256 = sha256_bytes(seal(document))
        record = step_record("materialize")(chain)
        stack.enter_context(edited(record, lambda document: document["outputs"]["set"].update({"manifest.json": sha256})))
        yield


def tag(name: str, value: str) -> Callable[[Chain], AbstractContextManager[None]]:
    return lambda chain: tagged("1", name, value)


def another_teacher(chain: Chain) -> AbstractContextManager[None]:
    other = make_teacher(chain.folder / "other", seed=1)
    stack = ExitStack()
    for name in ("bundle.json", "weights.safetensors"):
        stack.enter_context(changed(chain.teacher / name, (other / name).read_bytes()))
    return stack


def plan_of_another(chain: Chain) -> AbstractContextManager[None]:
    return edited(in_store("{run}/run.json")(chain), lambda document: document["sections"]["generator"].update({"rounds": 200}))


BREAKS: dict[str, tuple[str, Callable[[Chain], AbstractContextManager[None]]]] = {
    "a tag of the student": ("version", tag("student_sha256", "0" * 64)),
    "a tag of the teacher": ("version", tag("teacher_sha256", "0" * 64)),
    "a tag of an input": ("version", tag("input.set", "0" * 64)),
    "a tag of the generator": ("version", tag("synthesizer_sha256", "0" * 64)),
    "a tag of the number": ("version", tag("value", "0.999")),
    "the served file": ("served model", flipped(in_registry("model.pt2"))),
    "weights in the registry": ("student", flipped(in_registry("weights.safetensors"))),
    "bundle.json in the registry": ("student", flipped(in_registry("bundle.json"))),
    "weights in the store": ("student", flipped(in_store("{student}/weights.safetensors"))),
    "bundle.json in the store": ("student", flipped(in_store("{student}/bundle.json"))),
    "the best epoch in the store": ("student", flipped(in_store("{student}/best/weights.safetensors"))),
    "the report": ("report", flipped(in_store("{run}/evaluation.json"))),
    "the run's record is gone": ("run", gone(in_store("{run}/run.json"))),
    "the run's record is damaged": ("run", lambda chain: changed(in_store("{run}/run.json")(chain), b"{")),
    "the student's step is not recorded": ("run", gone(step_record("train_student"))),
    "the set's step is not recorded": ("set", gone(step_record("materialize"))),
    "the run planned otherwise": ("generator", plan_of_another),
    "the manifest": ("set", flipped(output("materialize/manifest.json"))),
    "the manifest is gone": ("set", gone(output("materialize/manifest.json"))),
    "a manifest that agrees with all but the student": ("set", forged_set),
    "a shard": (
        "set",
        lambda chain: flipped(lambda chain: sorted(stored(chain, "materialize/manifest.json").parent.glob("shards/*"))[0])(chain),
    ),
    "the synthesizer": ("generator", flipped(output("train_generator/outputs/synthesizer/*/synthesizer.json"))),
    "the synthesizer's tensors": ("generator", flipped(output("train_generator/outputs/synthesizer/*/state.safetensors"))),
    "the synthesizer is gone": ("generator", gone(output("train_generator/outputs/synthesizer/*/state.safetensors"))),
    "the statistics": ("statistics", flipped(output("extract_statistics/outputs/statistics/*/file"))),
    "statistics of another teacher": ("statistics", statistics_of_another_teacher),
    "the teacher's weights": ("teacher", flipped(lambda chain: chain.teacher / "weights.safetensors")),
    "another teacher": ("teacher", another_teacher),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_link_is_named(case: str, chain: Chain) -> None:
    name, breaking = BREAKS[case]
    with breaking(chain), pytest.raises(StoreError) as refused:
        audit("distillery-student:1")
    sentence = str(refused.value)
    assert sentence.startswith(f"The chain is broken at the {name}: "), sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert set(states("distillery-student:1").values()) == {"ok"}  # mended again: what was broken was the link


ONLINE_BREAKS: dict[str, tuple[str, Callable[[Chain], AbstractContextManager[None]]]] = {
    "the pool's manifest": ("set", flipped(output("distill_online/manifest.json"))),
    "the synthesizer": ("generator", flipped(output("distill_online/outputs/synthesizer/*/synthesizer.json"))),
    "the pool is of another run": ("version", lambda chain: tagged("2", "set_sha256", "0" * 64)),
    "no step of the run": ("run", gone(step_record("distill_online"))),
}


@pytest.mark.parametrize("case", ONLINE_BREAKS)
def test_a_broken_link_of_an_online_run_is_named(case: str, online: Chain) -> None:
    name, breaking = ONLINE_BREAKS[case]
    with breaking(online), pytest.raises(StoreError, match=f"broken at the {name}: "):
        audit("distillery-student:2")


@pytest.mark.parametrize(
    ("case", "name"),
    [("weights in the store", "student"), ("bundle.json in the store", "student"), ("the run's record is gone", "run"), ("a shard", "set")],
)
def test_a_broken_link_behind_a_bundle_is_named(case: str, name: str, chain: Chain) -> None:
    with BREAKS[case][1](chain), pytest.raises(DistilleryError, match=f"broken at the {name}: "):
        audit(f"{chain.store}/{chain.key}")


def test_a_bundle_outside_the_store_that_no_run_made(chain: Chain) -> None:
    copy = shutil.copytree(chain.student, chain.folder / "changed", dirs_exist_ok=True)
    with (
        changed(copy / "bundle.json", seal({**json.loads((copy / "bundle.json").read_bytes()), "class_names": ["x", "y", "z"]})),
        pytest.raises(StoreError, match="broken at the run: no run in .* says that it made"),
    ):
        audit(str(copy), chain.store)


@pytest.mark.parametrize(
    ("subject", "error", "words"),
    [
        ("distillery-student:9", MissingResourceError, "does not have the version distillery-student:9"),
        ("distillery-student@best", MissingResourceError, "does not have the version distillery-student@best"),
        ("nobody:1", MissingResourceError, "does not have the version nobody:1"),
        ("no such folder", ConfigError, "neither a folder nor a version"),
        ("gs://bucket/student", ConfigError, "is not supported"),
    ],
)
def test_a_subject_that_is_not_there(subject: str, error: type[DistilleryError], words: str, chain: Chain) -> None:
    with pytest.raises(error, match=words):
        audit(subject)


def test_a_dead_registry_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"^MLflow at http://127.0.0.1:9 does not give the version digits:1 .*MLFLOW_TRACKING_URI\.$"):
        audit("digits:1")


def test_without_any_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        audit("digits:1")
    assert not (tmp_path / "mlflow.db").exists()


def test_the_workspaces_database_is_the_registry_where_none_is_named(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(chain.folder))
    monkeypatch.chdir(tmp_path)
    assert set(states("distillery-student:1").values()) == {"ok"}
    assert list(tmp_path.iterdir()) == []  # MLflow makes a database of its own where it is not told better


def test_json_for_programs(chain: Chain) -> None:
    shown = CliRunner().invoke(app, ["audit", "distillery-student:1", "--json"])
    assert [link["name"] for link in json.loads(shown.stdout)] == NAMES
