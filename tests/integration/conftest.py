"""Real servers, one of each a test session. Where one is not installed its tests are skipped, or fail where they were asked for."""

import os
import secrets
from collections.abc import Iterator

import pytest

from distillery.storage.s3 import S3Store, make_client
from s3_servers import Ceph, environment, missing_programs


def skip_or_fail(reason: str) -> None:
    """Skip, unless DISTILLERY_REQUIRE_INTEGRATION=1 says that nothing may be skipped."""
    if os.environ.get("DISTILLERY_REQUIRE_INTEGRATION") == "1":
        pytest.fail(f"DISTILLERY_REQUIRE_INTEGRATION=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real S3 server; a test that stops its gateway starts it again."""
    if missing := missing_programs():
        skip_or_fail(f"a real S3 server needs {', '.join(missing)}: install ceph-mon, ceph-osd, ceph-common and radosgw.")
    server = Ceph(tmp_path_factory.mktemp("ceph") / "cluster")
    yield server
    server.stop()


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
