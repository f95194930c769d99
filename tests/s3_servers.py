"""S3 servers for tests: moto in a process of its own, and a Ceph cluster of one node with its gateway; stopped by their process ids."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

CEPH_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_SECONDS = 90.0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(endpoint: str, key: str = "labaccess", secret: str = "labsecret123") -> dict[str, str]:
    """What a client needs to know, and nothing of the machine's own configuration."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Daemon:
    """A process that listens, known by its own id."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.name, self.log = Path(command[0]).name, log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}, start_new_session=True
            )

    def wait_for(self, url: str) -> None:
        """Return once it answers."""
        for _ in range(int(START_SECONDS * 20)):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text(errors='replace')[-2000:]}")
            try:
                urllib.request.urlopen(url, timeout=2).close()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.name} does not answer at {url} after {START_SECONDS} s: see {self.log}")

    def stop(self, seconds: float = 10.0) -> None:
        """End it, by force where it does not listen."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


class Moto(Daemon):
    """An S3 server that checks no signatures: enough for what does not depend on them."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
        super().__init__([sys.executable, "-W", "ignore", "-c", code], folder / "moto.log")
        self.wait_for(f"{self.endpoint}/moto-api/")


class Ceph:
    """A monitor, an object store in memory, and an S3 gateway, which alone may be stopped and started without a loss.

    Args:
        folder: everything is below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.config = folder / "ceph.conf"
        self.starting: threading.Timer | None = None
        self._daemons: list[Daemon] = []
        try:
            self._prepare()
            self._daemons.append(self._daemon("mon", ["ceph-mon", "-i", "a", "-f"]))
            osd = str(uuid4())
            self._run("ceph", "osd", "new", osd)
            self._run("ceph", "auth", "import", "-i", str(folder / "keyring"))
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            self._daemons.append(self._daemon("osd", ["ceph-osd", "-i", "0", "-f"]))
            self.gateway = self._start_gateway()
            self.add_user("labaccess", "labsecret123")
        except BaseException:
            self.stop()
            raise

    def _start_gateway(self) -> Daemon:
        gateway = self._daemon("rgw", ["radosgw", "-n", "client.rgw", "-f"])
        self._daemons.append(gateway)
        gateway.wait_for(self.endpoint)
        return gateway

    def start_gateway(self) -> None:
        """Start the gateway again."""
        self.gateway = self._start_gateway()

    def start_gateway_after(self, seconds: float) -> None:
        """Start the gateway again, later; `settle` waits for it."""
        self.starting = threading.Timer(seconds, self.start_gateway)
        self.starting.start()

    def settle(self) -> None:
        """Leave a gateway that runs, whatever was done to it."""
        if self.starting is not None:
            self.starting.join()
        self.starting = None
        if self.gateway.process.poll() is not None:
            self.start_gateway()

    def kill_gateway(self) -> None:
        """Stop the gateway as a power cut would; what it acknowledged is kept by the object store."""
        self.gateway.kill()
        self._daemons.remove(self.gateway)

    def add_user(self, key: str, secret: str) -> None:
        """A user of the gateway."""
        self._run(
            "radosgw-admin", "user", "create", f"--uid={key}", f"--display-name={key}", f"--access-key={key}", f"--secret-key={secret}"
        )

    def stop(self) -> None:
        """Stop everything, the gateway first: it hangs once the others are gone."""
        for daemon in reversed(self._daemons):
            daemon.stop()

    def _daemon(self, name: str, command: list[str]) -> Daemon:
        return Daemon([command[0], "-c", str(self.config), *command[1:]], self.folder / "log" / f"{name}.out")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, "-c", str(self.config), *arguments], capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def _prepare(self) -> None:
        for name in ("mon", "osd", "run", "log"):
            (self.folder / name).mkdir(parents=True)
        identity, first, second = str(uuid4()), free_port(), free_port()
        monitors = f"[v2:127.0.0.1:{first},v1:127.0.0.1:{second}]"
        self.config.write_text(_config(self.folder, identity, monitors, self.port))
        keyring = str(self.folder / "keyring")
        subprocess.run(["ceph-authtool", "--create-keyring", keyring], capture_output=True, check=True)
        for name, rights in _RIGHTS.items():
            caps = [word for kind, right in rights.items() for word in ("--cap", kind, right)]
            subprocess.run(["ceph-authtool", keyring, "--gen-key", "-n", name, *caps], capture_output=True, check=True)
        monmap = str(self.folder / "monmap")
        subprocess.run(["monmaptool", "--create", "--addv", "a", monitors, "--fsid", identity, monmap], capture_output=True, check=True)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)


def missing_programs() -> list[str]:
    """What a Ceph cluster needs and this machine does not have."""
    return [name for name in CEPH_PROGRAMS if shutil.which(name) is None]


_RIGHTS: dict[str, dict[str, str]] = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}


def _config(folder: Path, identity: str, monitors: str, port: int) -> str:
    values: dict[str, Any] = {
        "fsid": identity,
        "mon_host": monitors,
        "public_addr": "127.0.0.1",
        "cluster_addr": "127.0.0.1",
        "ms_bind_ipv6": "false",
        "keyring": folder / "keyring",
        "mon_data": folder / "mon",
        "osd_data": folder / "osd",
        "rgw_data": folder / "run",
        "run_dir": folder / "run",
        "admin_socket": "",  # the path of a socket has to be short, that of a test need not be
        "log_file": folder / "log" / "$name.log",
        "crash_dir": folder / "log",
        "osd_objectstore": "memstore",
        "memstore_device_bytes": 6 * 1024**3,
        "osd_pool_default_size": 1,
        "osd_pool_default_min_size": 1,
        "mon_allow_pool_size_one": "true",
        "mon_warn_on_pool_no_redundancy": "false",
        "auth_allow_insecure_global_id_reclaim": "false",
        "osd_pool_default_pg_num": 1,
        "osd_pool_default_pgp_num": 1,
        "osd_pool_default_pg_autoscale_mode": "off",
        "osd_crush_chooseleaf_type": 0,
        "mon_data_avail_warn": 1,
        "mon_data_avail_crit": 0,
        "rgw_frontends": f"beast endpoint=127.0.0.1:{port} tcp_nodelay=1",
        "rgw_thread_pool_size": 64,
        # a killed gateway is waited for no longer than that by the one that follows it
        "osd_client_watch_timeout": 2,
        "client_notify_timeout": 2,
        # what was deleted goes at once: it lies in memory
        "rgw_gc_obj_min_wait": 1,
        "rgw_gc_processor_period": 1,
    }
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
