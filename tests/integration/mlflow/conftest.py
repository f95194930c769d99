"""A student that was distilled with its store on a real S3 server, and registered on a real MLflow."""

import secrets
from collections.abc import Iterator

import pytest

from chains import Chain
from distillery.storage.s3 import make_client
from mlflow_servers import MlflowServer
from s3_servers import Ceph, environment


@pytest.fixture(scope="session")
def _served_chain(mlflow_server: MlflowServer, ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    bucket = f"store-{secrets.token_hex(4)}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(ceph.endpoint).items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
        make_client().create_bucket(Bucket=bucket)
        yield Chain(tmp_path_factory.mktemp("served"), "ls_gdfd/digits", f"s3://{bucket}/team").make()


@pytest.fixture
def served_chain(_served_chain: Chain, mlflow_server: MlflowServer, ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """The chain, and the environment that leads to it."""
    for name, value in environment(ceph.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(_served_chain.folder / "work"))
    return _served_chain
