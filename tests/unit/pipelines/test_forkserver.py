"""What a fork server forks is a process like any other, and nothing of the library is in the way of a fork."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from distillery.step_table import PIPELINES, STEPS
from distillery_kfp.pipelines.runner import forkserver
from distillery_kfp.pipelines.runner.child import _forking, imported
from distillery_kfp.pipelines.runner.forkserver import ForkServer

LOOK = """
import json, os, sys
print(json.dumps({
    "arguments": sys.argv, "variables": dict(os.environ), "folder": os.getcwd(), "first": sys.path[0], "name": __name__,
    "later": [name in sys.modules for name in sys.argv[1:]],
    "loaded": "heavy" in sys.modules, "called": sys.modules["heavy"].CALLED, "pid": os.getpid(), "group": os.getpgrp(),
}))
print(sys.stdin.read(), file=sys.stderr)
"""
ENDS = """
import atexit, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor(1).submit(int)  # never shut down: its thread waits for the end
atexit.register(lambda: print("left", flush=True))
threading.Thread(target=lambda: (time.sleep(0.05), print("joined", flush=True))).start()
how = sys.argv[1]
if how == "code": sys.exit(3)
if how == "words": sys.exit("these words")
if how == "error": raise ValueError("of the module")
if how == "interrupt": os.kill(os.getpid(), signal.SIGINT); time.sleep(9)
if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
if how == "term": os.kill(os.getpid(), signal.SIGTERM)
"""
WATCH = """
import os, threading, torch
asked = []
def watch():
    for name in ("_cuda_getDeviceCount", "_cuda_init"):
        setattr(torch._C, name, lambda: asked.append(name) or 0)
if __name__ == "__main__":
    import sys
    from distillery.provenance import code_version
    from distillery.step_version import step_version
    asked = sys.modules["watched"].asked
    print(asked, torch.cuda.is_initialized(), threading.active_count(), "torch._dynamo" in sys.modules, "mlflow" in sys.modules)
    print(code_version.cache_info().currsize, step_version.cache_info().currsize)
"""
WAITS = """
import sys
print("here", flush=True)
print(sys.stdin.read(), end="")
sys.exit(5)
"""
SLOW = """
import os, time
open(os.environ["BEGUN"], "w").close()
while not os.path.exists(os.environ["GO_ON"]):
    time.sleep(0.01)
"""
MODULES = {
    "look": LOOK,
    "ends": ENDS,
    "watched": WATCH,
    "heavy": "CALLED = []\ndef load():\n    CALLED.append(1)\n",
    "broken": "raise ValueError('a variable that it dislikes')\n",
    "draws": "import numpy, random\nprint(numpy.random.random(), random.random())\n",
    "waits": WAITS,
    "slow": SLOW,
}
pytestmark = pytest.mark.skipif(not forkserver.AVAILABLE, reason="Linux only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (made / f"{name}.py").write_text(text)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ForkServer]:
    modules = ["heavy", "heavy:load", "no.such.module", "broken", "numpy.random"]
    with ForkServer(modules, {"PYTHONPATH": str(folder), "ONLY": "the server's"}) as started:
        yield started


def test_it_has_the_streams_arguments_variables_and_folder_of_who_asked(server: ForkServer, tmp_path: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "OWN": "wörd \udcff"}
    command = [*server.command, "-m", "look", "one", "-m", "two words"]
    done = subprocess.run(command, input="said", capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert (done.returncode, done.stderr) == (0, "said\n")
    seen = json.loads(done.stdout)
    assert seen["arguments"][1:] == ["one", "-m", "two words"]
    assert seen["arguments"][0].endswith("look.py")
    assert {name: value for name, value in seen["variables"].items() if name != "LC_CTYPE"} == variables
    assert (seen["folder"], seen["first"], seen["name"]) == (str(tmp_path), str(tmp_path), "__main__")
    assert (seen["loaded"], seen["called"]) == (True, [1])
    assert seen["group"] == os.getpgrp(), "a signal to the group reaches it"
    again = json.loads(subprocess.run(command, input="", capture_output=True, text=True, cwd=tmp_path, env=variables).stdout)
    assert again["pid"] != seen["pid"]


@pytest.mark.parametrize(
    ("how", "code", "out", "said"),
    [
        ("well", 0, "joined\nleft\n", ""),
        ("code", 3, "joined\nleft\n", ""),
        ("words", 1, "joined\nleft\n", "these words\n"),
        ("error", 1, "joined\nleft\n", "ValueError: of the module\n"),
        ("interrupt", 128 + signal.SIGINT, "joined\nleft\n", ""),
        ("kill", 128 + signal.SIGKILL, "", "ends was ended by signal 9 (Killed).\n"),
        ("term", 128 + signal.SIGTERM, "", "ends was ended by signal 15 (Terminated).\n"),
    ],
)
def test_it_ends_as_an_interpreter_ends(how: str, code: int, out: str, said: str, server: ForkServer) -> None:
    done = subprocess.run([*server.command, "-m", "ends", how], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.endswith(said)
    assert ("Traceback" in done.stderr) == (how == "error")


def test_several_run_at_once(server: ForkServer) -> None:
    command = [*server.command, "-m", "look"]
    waiting = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(3)]
    pids = {json.loads(process.communicate(b"")[0])["pid"] for process in reversed(waiting)}
    assert len(pids) == 3


def test_a_server_that_has_ended_is_told(folder: Path) -> None:
    with ForkServer([], {"PYTHONPATH": str(folder)}) as ended:
        pass
    done = subprocess.run([*ended.command, "-m", "look"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.endswith("The process that was to fork look has ended.\n")


def test_no_two_draw_the_same(server: ForkServer) -> None:
    draws = [subprocess.run([*server.command, "-m", "draws"], capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert all(first != second for first, second in zip(*draws, strict=True))


def test_a_path_without_the_folder_keeps_its_first_entry(folder: Path) -> None:
    with ForkServer([], {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}) as server:
        done = subprocess.run([*server.command, "-m", "draws"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_who_is_gone_before_he_asked_is_forgotten(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ForkServer([], {"PYTHONPATH": str(folder)}) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{server._name}")
        subprocess.run([*server.command, "-m", "draws"], capture_output=True, check=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("refused", ["bind", "connect"])
def test_a_sandbox_without_sockets_starts_each_step_anew(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, refused, refuse)
    monkeypatch.setattr(sys, "executable", "/a place/python")
    with _forking("online_distillation"):
        assert sys.executable == "'/a place/python'", "kfp writes it into a shell's line"
    assert sys.executable == "/a place/python"


def test_it_serves_while_it_imports_what_is_needed_later(folder: Path, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(folder), "BEGUN": str(tmp_path / "begun"), "GO_ON": str(tmp_path / "go on")}
    with ForkServer(["heavy", "heavy:load"], variables, later=["slow", "json.tool"]) as server:
        command = [*server.command, "-m", "look", "slow", "json.tool"]
        early = subprocess.run(command, input="", capture_output=True, text=True)
        assert (json.loads(early.stdout)["loaded"], json.loads(early.stdout)["later"]) == (True, [False, False]), early.stderr
        (tmp_path / "go on").touch()
        while json.loads(early.stdout)["later"] != [True, True]:
            early = subprocess.run(command, input="", capture_output=True, text=True)


def test_it_ends_in_the_middle_of_an_import_and_leaves_only_what_it_forked(folder: Path, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(folder), "BEGUN": str(tmp_path / "begun"), "GO_ON": str(tmp_path / "never")}
    with ForkServer(["heavy"], variables, later=["slow"]) as server:
        running = subprocess.Popen([*server.command, "-m", "waits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        assert running.stdout.readline() == "here\n"
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if _mentions(path, tmp_path)]
    assert len(left) == 2, "more than what it forked and the one that waits for that"
    assert (*running.communicate("said"), running.returncode) == ("said", None, 5)


def _mentions(path: Path, folder: Path) -> bool:
    with suppress(OSError):
        return f"={folder}".encode() in path.read_bytes()
    return False


def test_another_user_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    with here, there:
        assert forkserver._is_ours(here)
        monkeypatch.setattr(os, "getuid", lambda: 4711)
        assert not forkserver._is_ours(here)


def test_what_runs_import_leaves_nothing_that_a_fork_would_break(folder: Path, tmp_path: Path) -> None:
    modules = [module for pipeline in PIPELINES for part in imported(pipeline) for module in part]
    variables = {"PYTHONPATH": str(folder), "_KFP_RUNTIME": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    with ForkServer(["watched:watch", *modules], variables) as server:
        done = subprocess.run([*server.command, "-m", "watched"], capture_output=True, text=True)
    clean, versions = done.stdout.splitlines()
    assert (clean, done.stderr) == ("[] False 1 True True", ""), "CUDA or a thread was begun, or something was not imported"
    assert versions == f"1 {len(STEPS)}", "a step would take the versions of sources that are edited after it was imported"
    assert not list(tmp_path.iterdir()), "a database was opened"
