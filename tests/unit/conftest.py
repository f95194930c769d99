"""An S3 server for unit tests: it answers as Amazon's does, but checks neither signatures nor rights."""

import secrets
from collections.abc import Iterator

import pytest

from distillery.storage.s3 import make_client
from s3_servers import Moto, environment


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """The server."""
    server = Moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture
def bucket(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, and the environment that leads to it."""
    for name, value in environment(moto.endpoint).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(4)}"
    make_client().create_bucket(Bucket=name)
    return name
