"""A process that has imported what others will need, and forks them: each begins in milliseconds, and is else a process like any other.

Torch, MLflow and the first optimizer take a step four to six seconds of imports before its first line; a run of seven steps pays for them
once here, beside the first of them. What is forked has the streams, environment, folder and arguments of the `forkclient.py` that asked
for it, and ends as the interpreter ends. The server imports and nothing else: it opens no device, file or connection and starts no thread,
so that there is nothing which a fork would share or lose. Linux only, by `AVAILABLE`: elsewhere a fork beside other libraries' threads may
hang.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

AVAILABLE = sys.platform == "linux"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: the kernel's struct ucred
_STREAMS = 3
_MEANWHILE = "--"  # between the modules that the first who asks waits for, and those that are imported beside him


class ForkServer:
    """Starts the process, and ends it with the `with` block; what it forked is not ended.

    Args:
        modules: to import; "module:function" is called as well. One that cannot be imported is left to whoever needs it.
        variables: of its environment, beside those of this process.
        later: modules to import while it serves already: what is forked before they are there imports them for itself.

    Raises:
        OSError: no such process can be reached here, as in a sandbox that refuses sockets; nothing was started.
    """

    def __init__(self, modules: Sequence[str], variables: Mapping[str, str], later: Sequence[str] = ()) -> None:
        self._name = f"distillery-{secrets.token_hex(16)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self._name}")  # no file, whose path may be longer than a socket's may be
            listener.listen()
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.connect(f"\0{self._name}")
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno()), *modules, _MEANWHILE, *later],
                env={**os.environ, **variables},
                pass_fds=(listener.fileno(),),
                stdin=subprocess.PIPE,  # its end tells the server that we are gone
            )

    @property
    def command(self) -> list[str]:
        """What to write instead of the path of Python before `-m MODULE ARGUMENTS`."""
        return [sys.executable, "-IS", str(Path(__file__).with_name("forkclient.py")), self._name]

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.send_signal(signal.SIGUSR1)  # while it imports it does not look at its input
        self._process.wait()


@dataclass(frozen=True)
class _Job:
    """What a client asked for."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str


def main() -> None:
    """Import, then serve; what is forked leaves the server's loop and runs as if Python had been started for it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # our starter's group gets them: what is forked answers, and we end by our input's end
    descriptor, *names = sys.argv[1:]
    cut = names.index(_MEANWHILE)
    gc.disable()  # nothing that is imported is garbage
    with socket.socket(fileno=int(descriptor)) as listener:
        _load(names[:cut])
        job = _serve_meanwhile(listener, names[cut + 1 :]) or _serve(listener)
    os._exit(_run(job) if job else 0)  # without taking all modules down, which is what takes two seconds


def _serve_meanwhile(listener: socket.socket, modules: Sequence[str]) -> _Job | None:
    """Import while a process forked now serves instead; returns in what that one forks with its job, and in the server with none."""
    reading, writing = os.pipe()
    early = os.fork()
    if not early:
        os.close(writing)
        os.dup2(reading, 0)
        os.close(reading)
        if job := _serve(listener):
            return job
        os._exit(0)

    def hand_over() -> None:
        os.close(writing)  # its input ends
        os.waitpid(early, 0)  # of two that look at the listener one would wait for whom the other has answered

    def end(number: int, frame: FrameType | None) -> None:
        hand_over()
        os._exit(0)

    os.close(reading)
    signal.signal(signal.SIGUSR1, end)
    _load(modules)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    hand_over()
    return None


def _run(job: _Job) -> int:
    """What the interpreter does with a module, up to the exit code that it ends with."""
    code: object = 0
    try:
        runpy.run_module(job.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its forks: waits for threads, tells pools that it is over
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def _load(names: Sequence[str]) -> None:
    for name in names:
        module, _, function = name.partition(":")
        with suppress(Exception):  # foreign modules raise anything for a variable that they dislike; whoever needs one hears of it
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()
    gc.freeze()  # a collection would copy the pages that all share


def _serve(listener: socket.socket) -> _Job | None:
    """Fork for each connection until our input ends; returns in a forked process with its job, and in the server with none."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for a forked process are not waited for
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        with connection:
            if _is_ours(connection) and not os.fork():
                return _fork(connection)


def _is_ours(connection: socket.socket) -> bool:
    """Whether this very user asks: a socket without a file has no rights of its own."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(said)[1] == os.getuid())


def _fork(connection: socket.socket) -> _Job:
    """In a process that waits for it, fork the one that was asked for; only that one returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(connection, 8, _STREAMS)
    if not length:
        os._exit(0)  # gone before it asked
    with connection.makefile("rb") as stream:
        job = _Job(**json.loads(stream.read(int.from_bytes(length, "big"))))
    pid = os.fork()
    if pid:
        for descriptor in (*descriptors, *range(_STREAMS)):
            os.close(descriptor)  # whoever reads what the process writes waits for the last writer
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(ConnectionError):
            connection.sendall(str(code).encode())
        os._exit(0)
    _become(job, descriptors)
    return job


def _become(job: _Job, descriptors: Sequence[int]) -> None:
    for stream, descriptor in enumerate(descriptors):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    sys.argv = [job.module, *job.arguments]
    if not sys.flags.safe_path:
        sys.path[0] = job.folder  # where `python -m` looks first
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()  # as each process begins; `random` sees to it by itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.enable()


if __name__ == "__main__":
    main()
