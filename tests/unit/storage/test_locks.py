"""A lock is waited for, naming its holder, and never outlives a killed process."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distillery.errors import StoreError
from distillery.storage.locks import holder, lock, try_lock

HOLD = """
import sys, time
from pathlib import Path
from distillery.storage.locks import lock
with lock(Path(sys.argv[1]), "work"):
    sys.stdout.write("held\\n"); sys.stdout.flush()
    time.sleep(60)
"""


def test_waits_for_a_process_naming_it_and_goes_on_when_it_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "locks" / "a.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        timer = threading.Timer(0.5, holder.send_signal, [signal.SIGKILL])
        begun = time.monotonic()
        timer.start()
        with caplog.at_level(logging.WARNING), lock(path, "train_student abc"):
            assert time.monotonic() - begun > 0.3
            assert path.read_text() == f"{os.getpid()}\n"
        timer.join()
    assert f"train_student abc is being worked on by process {holder.pid}" in caplog.text
    assert caplog.text.count("being worked on") == 1


def test_a_free_lock_is_taken_at_once_and_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with lock(tmp_path / "a.lock", "work"):
            pass
    assert not caplog.text


def test_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another workspace"), lock(tmp_path / "file" / "a.lock", "work"):
        pass


def test_who_only_tries_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert holder(path) == 0
    assert not path.exists()
    with lock(path, "work"):
        assert holder(path) == os.getpid()
        with try_lock(path) as held:
            assert not held
    assert holder(path) == 0
    with try_lock(path) as held, try_lock(path) as again:
        assert (held, again) == (True, False)
