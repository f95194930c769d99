"""A real MLflow for tests: `mlflow server` over PostgreSQL, with artifacts in a bucket; stopped by their process ids."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from s3_servers import Daemon, free_port

USER = "mlflow"
SECONDS = 60.0


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs, which Debian does not put on the path; None where there is none."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    return Path(found).resolve().parent if found else next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


class Postgres:
    """A cluster of its own in a folder of its own; it refuses to run as root, so root hands it to another user."""

    def __init__(self) -> None:
        programs = postgres_programs()
        assert programs is not None
        self.programs = programs
        self.user = _unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not below pytest's folders, which only their owner may enter
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self.port = free_port()
        try:
            self._run("initdb", "-D", str(self.folder / "data"), "-U", USER, "-E", "UTF8", "--locale=C", "-A", "trust", "--no-sync")
            self.start()
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "mlflow")
        except BaseException:
            self.remove()
            raise

    @property
    def uri(self) -> str:
        """What SQLAlchemy opens."""
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        """Start it, the first time or again."""
        options = f"-h 127.0.0.1 -p {self.port} -k '' -F"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", str(int(SECONDS)), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it without waiting for its clients."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it and forget everything."""
        with suppress(RuntimeError):  # it does not run
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        with (self.folder.parent / f"{self.folder.name}.log").open("w+") as output:  # a pipe would stay open as long as the server
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=self.user, cwd="/", check=False)
            output.seek(0)
            said = output.read()
        Path(output.name).unlink()
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {said[-2000:]}")


class MlflowServer:
    """`mlflow server`, which alone knows the way to the database and to the bucket.

    Args:
        folder: for its log.
        database: of its runs and versions.
        bucket: s3:// URI for artifacts.
        storage: environment that leads to the bucket.
    """

    def __init__(self, folder: Path, database: str, bucket: str, storage: Mapping[str, str]) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        settings = {"MLFLOW_S3_ENDPOINT_URL": storage["AWS_ENDPOINT_URL_S3"], "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **storage}
        limits = {"MLFLOW_DISABLE_TELEMETRY": "true", "AWS_MAX_ATTEMPTS": "2", "AWS_DEFAULT_REGION": "us-east-1"}
        stores = ["--backend-store-uri", database, "--artifacts-destination", bucket, "--serve-artifacts"]
        command = [sys.executable, "-m", "mlflow", "server", *stores, "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._start = lambda: Daemon(command, folder / "mlflow.log", **settings, **limits)
        self.start()

    def start(self) -> None:
        """Start it, the first time or again."""
        self.daemon = self._start()
        self.daemon.wait_for(f"{self.uri}/health")

    def stop(self) -> None:
        """End it and its workers, which share its session."""
        group = self.daemon.process.pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                return
            if self._ends(10.0 if number == signal.SIGTERM else 5.0):
                return

    def _ends(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.daemon.process.poll()
            try:
                os.killpg(self.daemon.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.1)
        return False


def _unprivileged() -> str | None:
    """Who runs PostgreSQL: this user, or where that is root, the one that its package made, else nobody."""
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
