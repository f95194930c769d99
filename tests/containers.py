"""A container engine of a test session's own, and the images that tests run in it; nothing of the user's own engine is touched.

The **thin** image is `images/Containerfile`'s last stage without files: its user, its variables, its HOME. What the real one copies in,
the packages, Python and what a shell needs, is mounted from this machine, read-only and where the real one has it. So the engine, the
user, the missing rights, the read-only root and the scratch mounts are real, and the files are those of `make setup`. The real images
are built and put through the same tests by `make soak`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery_kfp.pipelines.metadata import images
from s3_servers import Daemon

ROOT = Path(__file__).parents[1]
PROGRAMS = ("dockerd", "containerd", "runc", "docker")
PACKAGES = "/srv/distillery/packages"
REGISTRY = "docker-registry"
USER = "12345:0"
SCRATCH = ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config")
"""Where Kubeflow mounts a volume of each pod; nothing else in it can be written, but what a task mounts itself."""
BRIDGE = Path("/sys/class/net/docker0")
DEFAULT_BASE = "python:3.11-slim-bookworm"
GIVEN = os.environ.get("DISTILLERY_TEST_ENGINE", "")
"""Address of an engine that holds the real images under the table's names; soak tests take it in place of building them."""


def cannot_run() -> str:
    """Why no engine can be started here, "" where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"a container engine needs {', '.join(missing)}: install Debian's docker.io"
    return "" if os.geteuid() == 0 else "a container engine can only be started by root"


class Docker:
    """An engine, by the address of its socket."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run one command of its client; what it says comes back."""
        environment = {**os.environ, "DOCKER_HOST": self.address, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False, **more)
        assert not check or done.returncode == 0, (
            f"docker {words[0]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
        return done

    def stop(self) -> None:
        """Leave an engine that is not ours alone."""


class OwnDocker(Docker):
    """An engine that is started here, in a network of its own, which nothing leaves: an engine without a bridge removes another's.

    Args:
        folder: everything is below it.
        on_the_network: start it where this machine's network is, for builds that fetch packages by `--network=host`.
    """

    def __init__(self, folder: Path, on_the_network: bool = False) -> None:
        folder.mkdir()
        self.folder = folder
        super().__init__(f"unix://{folder}/docker.sock")
        limits = {"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 4096, "Soft": 4096}}}
        (folder / "daemon.json").write_text(json.dumps(limits))
        places = [f"--{name}={folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        quiet = ["--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        apart = [] if on_the_network else ["unshare", "--net"]
        bridge = [] if on_the_network else ["--bridge=none"]
        self.had_bridge = BRIDGE.exists()
        command = [*apart, "dockerd", f"--config-file={folder / 'daemon.json'}", *places, *quiet, *bridge, "-H", self.address]
        self.daemon = Daemon(command, folder / "dockerd.log")
        for _ in range(1200):
            if self("version", check=False).returncode == 0:
                return
            assert self.daemon.process.poll() is None, self.daemon.log.read_text()[-2000:]
            time.sleep(0.05)
        raise RuntimeError(f"dockerd does not answer: {self.daemon.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it and its containers, and remove what it wrote."""
        for container in self("ps", "--quiet", check=False).stdout.split():
            self("kill", container, check=False)
        self.daemon.stop(30)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", place], check=False)
        if BRIDGE.exists() and not self.had_bridge:
            subprocess.run(["ip", "link", "delete", BRIDGE.name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Registry:
    """A real registry in the network of an engine of ours; nobody else reaches it.

    Args:
        docker: the engine.
        folder: what is pushed lies in it.
    """

    def __init__(self, docker: OwnDocker, folder: Path) -> None:
        self.host, self.docker = "127.0.0.1:5000", docker
        settings = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}}, "http": {"addr": self.host}}
        (folder / "registry.yml").write_text(json.dumps(settings))
        inside = ["nsenter", "--net", f"--target={docker.daemon.process.pid}"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        self.daemon = Daemon([*inside, REGISTRY, "serve", str(folder / "registry.yml")], folder / "registry.log")
        for _ in range(600):
            if "no such host" not in (said := docker("pull", f"{self.host}/nothing:1.0.0", check=False).stderr) and "refused" not in said:
                return
            assert self.daemon.process.poll() is None, self.daemon.log.read_text()[-2000:]
            time.sleep(0.05)
        raise RuntimeError(f"{REGISTRY} does not answer: {self.daemon.log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Images:
    """Where the pipelines' images can be run.

    Attributes:
        docker: the engine that has them, under the names of images.yaml.
        mounts: host folder -> place in the container, read-only: what the thin image does not hold itself.
    """

    docker: Docker
    mounts: dict[str, str] = field(default_factory=dict)

    def run(self, image: str, command: list[str], *, env: dict[str, str], writable: dict[str, Path]) -> subprocess.CompletedProcess[str]:
        """Run a command as the most careful platform would: an unknown user, no rights, no network, and a root that cannot be written.

        Args:
            image: its reference.
            command: and its arguments.
            env: variables.
            writable: place in the container -> host folder.
        """
        words = ["--rm", "--user", USER, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        words += ["--network", "none", "--pull", "never"]
        words += [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        words += [word for host, place in self.mounts.items() for word in ("--volume", f"{host}:{place}:ro")]
        words += [word for place, host in writable.items() for word in ("--volume", f"{host}:{place}")]
        return self.docker("run", *words, image, *command, check=False)


def last_stage() -> list[tuple[str, str]]:
    """Instructions of the last stage of the Containerfile, continued lines joined."""
    text = (ROOT / "images" / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    start = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines[start:])]


def make_thin(docker: Docker, folder: Path) -> Images:
    """The thin image, under every name of the table."""
    home = folder / "users" / "home"
    home.mkdir(parents=True)
    home.chmod(0o775)
    kept = [f"{name} {rest}" for name, rest in last_stage() if name in ("ENV", "WORKDIR", "USER")]
    path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
    (folder / "Containerfile").write_text(
        "\n".join(["FROM scratch", "COPY --chown=10001:0 users /srv/distillery", path, *kept, 'CMD ["distillery", "--help"]'])
    )
    names = [word for reference in images().values() for word in ("--tag", reference.partition("@")[0])]
    docker("build", "--file", str(folder / "Containerfile"), *names, str(folder))
    return Images(docker, _this_machine())


def _this_machine() -> dict[str, str]:
    system = [place for place in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if Path(place).exists()]
    python = sys.base_prefix if not sys.base_prefix.startswith("/usr") else ""
    sources = [str(ROOT / name) for name in ("src", "components", "pipelines", "images")]
    return {sys.prefix: PACKAGES, **{place: place for place in (*system, *filter(None, [python]), *sources)}}


def build_real(docker: OwnDocker) -> Images:
    """What `make images` builds, upon the Containerfile's own base where that can be had, else upon Debian's packages."""
    with_network = ["--flag=--network=host"]
    base = [] if docker("pull", DEFAULT_BASE, check=False).returncode == 0 else [f"--base={_local_base(docker)}"]
    environment = {**os.environ, "DOCKER_HOST": docker.address, "DOCKER_BUILDKIT": "0"}
    subprocess.run([sys.executable, str(ROOT / "images" / "build.py"), *with_network, *base], env=environment, cwd=ROOT, check=True)
    return Images(docker)


def _local_base(docker: OwnDocker) -> str:
    """Debian with its own Python, and with the certificates by which this machine reaches its package index."""
    folder, name = docker.folder / "base", "localhost/python:3.11-slim"
    wanted = "--include=python3,python3-pip,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", wanted, "bookworm", str(folder)], check=True, capture_output=True)
    authorities = "etc/ssl/certs/ca-certificates.crt"
    shutil.copy(f"/{authorities}", folder / authorities)
    packed = subprocess.Popen(["tar", "-C", str(folder), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE)
    trust = [f"--change=ENV {variable}=/{authorities}" for variable in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    docker("import", *trust, "-", name, stdin=packed.stdout)
    assert packed.wait() == 0
    return name


def derive(made: Images, image: str, variables: dict[str, str], folder: Path) -> None:
    """Put variables into an image under its own name, as a ConfigMap does for a pod: kfp's DockerRunner drops what it is given of them."""
    folder.mkdir()
    lines = [f"FROM {image}", *(f"ENV {name}={value}" for name, value in variables.items())]
    (folder / "Containerfile").write_text("\n".join(lines))
    made.docker("build", "--file", str(folder / "Containerfile"), "--tag", image, str(folder))


def labels_of(docker: Docker, image: str) -> dict[str, str]:
    """What an image says of itself."""
    found: dict[str, str] = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image).stdout)
    return found


def whole_input(document: dict[str, Any], task: str, values: dict[str, Any], artifacts: dict[str, Path], out: str) -> dict[str, Any]:
    """What Kubeflow's launcher hands to a task: its inputs, and where its outputs go.

    Args:
        document: the compiled pipeline.
        task: such as `plan`.
        values: its parameters.
        artifacts: paths of its input artifacts, as the container sees them.
        out: folder of its outputs in the container.
    """
    component = document["components"][f"comp-{task}"]
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    taken = {name: values[name] for name in inputs.get("parameters", {}) if name in values}

    def artifact(name: str, definition: dict[str, Any], path: str) -> dict[str, Any]:
        return {"artifacts": [{"name": name, "type": definition["artifactType"], "uri": path, "metadata": {}}]}

    return {
        "inputs": {
            "parameterValues": taken,
            "artifacts": {name: artifact(name, row, str(artifacts[name])) for name, row in inputs.get("artifacts", {}).items()},
        },
        "outputs": {
            "parameters": {name: {"outputFile": f"{out}/parameters/{name}"} for name in outputs.get("parameters", {})},
            "artifacts": {name: artifact(name, row, f"{out}/artifacts/{name}") for name, row in outputs.get("artifacts", {}).items()},
            "outputFile": f"{out}/output_metadata.json",
        },
    }


def executor(document: dict[str, Any], task: str) -> dict[str, Any]:
    """The container of a task as the compiled pipeline has it."""
    container: dict[str, Any] = document["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
    return container


def fill(container: dict[str, Any], executor_input: dict[str, Any]) -> list[str]:
    """Command and arguments, word for word, with the one placeholder that Kubeflow's launcher fills."""
    words = [*container["command"], *container["args"]]
    assert sum("{{" in word and re.fullmatch(r"\{\{\$\}\}", word) is not None for word in words) == 1
    return [json.dumps(executor_input) if word == "{{$}}" else word for word in words]
