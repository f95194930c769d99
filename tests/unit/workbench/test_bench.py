"""The bench of every step: keys, finished work, sentences of failures, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.models.bundle import DOCUMENT
from distillery.models.catalog import Architecture, own_sources
from distillery.provenance import code_version
from distillery.recipes.sections import Section
from distillery.storage import FolderStore
from distillery.workbench.bench import reporting, workbench
from distillery.workbench.students import keep_student

ROOT = Path(__file__).parents[3]
SECTION = Section(seed=1, code_version=code_version(), teacher_sha256="t", precision="float32")
INPUTS = {"teacher": "t"}


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")


def key_of(section: Section = SECTION, inputs: dict[str, str] = INPUTS, step: str = "materialize") -> str:
    with workbench(step, section, inputs) as bench:
        return bench.key


def test_the_key_names_the_work() -> None:
    same = key_of()
    others = [
        key_of(SECTION.model_copy(update={"salt": "x"})),
        key_of(SECTION.model_copy(update={"seed": 2})),
        key_of(SECTION.model_copy(update={"precision": "bfloat16"})),
        key_of(inputs={"teacher": "u"}),
        key_of(step="train_student"),
    ]
    assert key_of() == same
    assert len({same, *others}) == 6


def test_auto_and_what_it_resolves_to_share_no_key_with_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for native in (False, True):
        monkeypatch.setattr("distillery.runtime.has_native_bfloat16", lambda device, native=native: native)
        keys.append(key_of(SECTION.model_copy(update={"precision": "auto"})))
    assert keys[0] != keys[1]


def test_finished_work_puts_its_outputs_in_place_again(tmp_path: Path) -> None:
    made, again = tmp_path / "made", tmp_path / "again"
    (made / "best").mkdir(parents=True)
    (made / "a.json").write_text("{}")
    (made / "best" / "b.bin").write_bytes(b"\0\1")
    (tmp_path / "one").write_text("single")
    with workbench("materialize", SECTION, INPUTS) as bench:
        assert bench.finished({"set": again}) is None
        assert bench.finish({"set": made, "file": tmp_path / "one"}, {"images": 3.0}) == {"images": 3.0}
    with workbench("materialize", SECTION, INPUTS) as bench:
        assert bench.finished({"set": again, "file": tmp_path / "two"}) == {"images": 3.0}
        store = bench.checkpoints.store
    assert (again / "best" / "b.bin").read_bytes() == b"\0\1"
    assert (again / "a.json").read_text() == "{}"
    assert (tmp_path / "two").read_text() == "single"
    (kept,) = (key for key in store.list("outputs/set") if key.endswith("/a.json"))
    store.write(kept, b"[]")
    with pytest.raises(StoreError, match="missing or damaged"), workbench("materialize", SECTION, INPUTS) as bench:
        bench.finished({"set": again})


def test_outputs_and_students_pass_through_no_bytes_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand bytes stand for ten gigabytes."""
    passed: list[int] = []
    read, write = FolderStore.read, FolderStore.write
    monkeypatch.setattr(FolderStore, "read", lambda self, key: (data := read(self, key), passed.append(len(data)))[0])
    monkeypatch.setattr(FolderStore, "write", lambda self, key, data: (passed.append(len(data)), write(self, key, data))[1])
    made = tmp_path / "made"
    made.mkdir()
    (made / DOCUMENT).write_text("{}")
    (made / "weights").write_bytes(bytes(10_000))
    with workbench("materialize", SECTION, INPUTS) as bench:
        bench.finish({"student": made}, {})
        assert bench.finished({"student": tmp_path / "again"}) == {}
        key = keep_student(bench.store, made)
        assert keep_student(bench.store, made) == key
        assert bench.store.size(f"{key}/weights") == 10_000
    assert (tmp_path / "again" / "weights").read_bytes() == bytes(10_000)
    assert passed
    assert max(passed) < 10_000


def test_the_outputs_of_who_finishes_first_are_taken_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, placed = {}, []
    for name, files in {"first": {"a": "1", "best/b": "1"}, "second": {"a": "2", "epochs/c": "2"}}.items():
        made[name] = tmp_path / name
        for relative, text in files.items():
            (made[name] / relative).parent.mkdir(parents=True, exist_ok=True)
            (made[name] / relative).write_text(text)
    with workbench("materialize", SECTION, INPUTS) as late:
        late.checkpoints.finish({"metrics": {"n": 1.0}, "outputs": {"set": late._keep("set", made["first"])}})
        assert late.finish({"set": made["second"]}, {"n": 2.0}, lambda: placed.append("committed")) == {"n": 1.0}
    assert {path.relative_to(made["second"]).as_posix() for path in made["second"].rglob("*") if path.is_file()} == {"a", "best/b"}
    assert (made["second"] / "a").read_text() == "1"
    assert placed == ["committed"]
    assert "Another worker finished materialize" in caplog.text


@pytest.mark.parametrize("error", [StoreError, MissingResourceError, ConfigError])
def test_what_another_worker_dropped_after_it_had_finished_is_no_failure(error: type[DistilleryError], tmp_path: Path) -> None:
    (tmp_path / "first").write_text("1")
    with workbench("materialize", SECTION, INPUTS) as bench:

        def make() -> dict[str, float]:
            bench.finish({"file": tmp_path / "first"}, {"n": 1.0})
            raise error("It is gone.")

        if error is ConfigError:  # of the work itself, which nobody else can have caused
            with pytest.raises(ConfigError, match="It is gone"):
                bench.do({"file": tmp_path / "late"}, make)
        else:
            assert bench.do({"file": tmp_path / "late"}, make) == {"n": 1.0}
            assert (tmp_path / "late").read_text() == "1"


def test_a_failure_of_the_work_itself_is_one(tmp_path: Path) -> None:
    def make() -> dict[str, float]:
        raise StoreError("The disk is full.")

    with workbench("materialize", SECTION, INPUTS) as bench, pytest.raises(StoreError, match="The disk is full"):
        bench.do({"file": tmp_path / "late"}, make)


def test_a_failure_leaves_its_sentence_and_the_next_start_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "work" / "errors" / "materialize.json"

    @reporting("materialize")
    def fail() -> None:
        raise ConfigError("size = 1 is not allowed: give 2.")

    with pytest.raises(ConfigError):
        fail()
    assert json.loads(path.read_text()) == {"step": "materialize", "error": "ConfigError", "message": "size = 1 is not allowed: give 2."}
    with reporting("materialize"):
        assert not path.exists()


def test_want_of_memory_is_one_sentence_wherever_it_shows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^distill_online stopped for want of memory \(OutOfMemoryError: CUDA out of memory\. Tried"):
        with reporting("distill_online"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual")
    assert "lower the batch size" in json.loads((tmp_path / "work" / "errors" / "distill_online.json").read_text())["message"]
    with pytest.raises(RuntimeError, match="our own mistake"), reporting("distill_online"):
        raise RuntimeError("our own mistake")


def test_opening_a_bench_writes_nothing_into_the_store(tmp_path: Path) -> None:
    key_of()
    assert not (tmp_path / "store").exists()


def test_a_step_refuses_other_code_of_the_users_than_the_plan_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench_nets.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    planned = SECTION.model_copy(update={"sources": own_sources(Architecture(name="bench_nets:f"))})
    assert key_of(planned) != key_of()
    (tmp_path / "bench_nets.py").write_text("x = 2\n")
    with pytest.raises(CheckpointMismatchError, match="source of the module 'bench_nets'"):
        key_of(planned)


def test_environment_that_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_THREADS", "many")
    with pytest.raises(ConfigError, match="DISTILLERY_THREADS = 'many'"):
        key_of()


WAIT = """
import sys, time
from distillery.models.bundle import DOCUMENT
from distillery.provenance import code_version
from distillery.recipes.sections import Section
from distillery.workbench.bench import workbench
section = Section(seed=1, code_version=code_version(), teacher_sha256="t", precision="float32")
with workbench("materialize", section, {}):
    sys.stdout.write("open\\n"); sys.stdout.flush()
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_step_with_their_status_and_without_a_traceback(number: int, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WAIT], env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as step:
        assert step.stdout is not None
        assert step.stderr is not None
        assert step.stdout.readline() == b"open\n"
        step.send_signal(number)
        assert step.wait(timeout=30) == status
        assert b"Traceback" not in step.stderr.read()


@pytest.mark.usefixtures("python_handlers")
def test_handlers_are_put_back() -> None:
    for _ in range(2):
        with reporting("materialize"), pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.usefixtures("python_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_a_signal_that_the_caller_handles_stays_theirs(number: int, theirs: Any) -> None:
    signal.signal(number, theirs)
    with reporting("materialize"), reporting("plan"):
        os.kill(os.getpid(), number)  # would be a SystemExit of the step
        assert signal.getsignal(number) is theirs


SUITE = """
import os, signal
from distillery.workbench.bench import reporting
def test_one():
    with reporting("materialize"):
        os.kill(os.getpid(), signal.SIGTERM)
def test_two():
    open("ran on", "w").close()
"""


def test_a_signal_ends_the_suite_and_not_the_step_under_test(tmp_path: Path) -> None:
    suite = tmp_path / "tests"
    suite.mkdir()
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copy(ROOT / "tests" / "conftest.py", suite)
    (suite / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "."]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout  # interrupted
    assert "SIGTERM" in done.stdout
    assert not (suite / "ran on").exists()
