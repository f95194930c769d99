"""A server for the registrar: the fake, or a real one where DISTILLERY_TEST_KFP names it; and a package."""

import os
from collections.abc import Iterator

import pytest

from distillery_kfp.pipelines.registrar.access import find_access
from distillery_kfp.pipelines.registrar.api import KubeflowApi
from distillery_kfp.pipelines.registrar.client import Client
from distillery_kfp.pipelines.registrar.package import PipelinePackage, read_package
from kubeflow_api import FakeKubeflow
from kubeflow_places import Place, asked, packed

REAL = os.environ.get("DISTILLERY_TEST_KFP", "")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> PipelinePackage:
    """A small one, with a field of each type."""
    return read_package(packed(tmp_path_factory.mktemp("packages")))


@pytest.fixture
def fake() -> FakeKubeflow:
    """The server in memory."""
    return FakeKubeflow()


@pytest.fixture
def place(fake: FakeKubeflow) -> Iterator[Place]:
    """The real server where one is named, else the fake; nothing that a test sent may have broken a rule."""
    found = Place(KubeflowApi(Client(find_access(REAL)))) if REAL else Place(asked(fake))
    yield found
    for run in list(found.api.recurring_runs()) if REAL else ():
        if found.suffix in run["display_name"]:
            found.api.delete_recurring_run(run["recurring_run_id"])
    assert fake.violations == []
