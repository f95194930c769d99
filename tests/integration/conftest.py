"""Real servers, one of each a test session. Where one is not installed its tests are skipped, or fail where they were asked for."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from containers import GIVEN, REGISTRY, Docker, Images, OwnDocker, Registry, build_real, cannot_run, make_thin
from distillery.storage.s3 import S3Store, make_client
from integration_rules import skip_or_fail
from mlflow_servers import MlflowServer, Postgres, postgres_programs
from s3_servers import Ceph, environment, missing_programs


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real S3 server; a test that stops its gateway starts it again."""
    if missing := missing_programs():
        skip_or_fail(f"a real S3 server needs {', '.join(missing)}: install ceph-mon, ceph-osd, ceph-common and radosgw.")
    server = Ceph(tmp_path_factory.mktemp("ceph") / "cluster")
    yield server
    server.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB of its own, which a test may fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def real_bucket(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket on the real server, and the environment that leads to it."""
    for name, value in environment(ceph.endpoint).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(4)}"
    make_client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def real_store(real_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> S3Store:
    """A place for a set on the real server, with a workspace of its own."""
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path_factory.mktemp("work")))
    return S3Store(real_bucket, "sets/one")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real database; a test that stops it starts it again."""
    if postgres_programs() is None:
        skip_or_fail("a real database needs initdb: install postgresql.")
    if find_spec("psycopg2") is None:
        skip_or_fail("MLflow speaks to PostgreSQL by psycopg2: install psycopg2-binary.")
    database = Postgres()
    yield database
    database.remove()


@pytest.fixture(scope="session")
def mlflow_server(ceph: Ceph, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow whose artifacts lie in a bucket of the S3 server, to which its clients have no key."""
    with pytest.MonkeyPatch.context() as patch:
        storage = environment(ceph.endpoint)
        for name, value in storage.items():
            patch.setenv(name, value)
        make_client().create_bucket(Bucket="mlflow")
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"), postgres.uri, "s3://mlflow/artifacts", storage)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnDocker]:
    """A container engine of the session's own."""
    if reason := cannot_run():
        skip_or_fail(f"{reason}.")
    engine = OwnDocker(tmp_path_factory.mktemp("docker") / "engine")
    yield engine
    engine.stop()


@pytest.fixture
def registry(docker: OwnDocker, tmp_path: Path) -> Iterator[Registry]:
    """A registry that the engine can push to."""
    if shutil.which(REGISTRY) is None:
        skip_or_fail(f"digests are given by a registry: install {REGISTRY}.")
    server = Registry(docker, tmp_path)
    yield server
    server.daemon.stop()


@pytest.fixture(scope="session")
def thin(docker: OwnDocker, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images that say what the real ones say, and find on this machine what those hold."""
    return make_thin(docker, tmp_path_factory.mktemp("thin"))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The real images, of about 7 GB, by a build that takes its time; or those of the engine that DISTILLERY_TEST_ENGINE names."""
    if GIVEN:
        yield Images(Docker(GIVEN))
        return
    if reason := cannot_run():
        skip_or_fail(f"{reason}.")
    engine = OwnDocker(tmp_path_factory.mktemp("real") / "engine", on_the_network=True)
    try:
        yield build_real(engine)
    finally:
        engine.stop()
