"""One tiny distillation, shared by the tests that look at what came out."""

import pytest

import distillery
from chains import make_teacher
from distillery import Distilled, ProgressEvent
from tiny_runs import labelled, tiny


@pytest.fixture(scope="session")
def told() -> list[ProgressEvent]:
    """What the shared distillation said of its progress."""
    return []


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, told: list[ProgressEvent]) -> Distilled:
    """A finished offline distillation with a test set."""
    folder = tmp_path_factory.mktemp("api")
    chosen = {"data": labelled(folder), "overrides": tiny("ls_gdfd/digits"), "device": "cpu", "progress": told.append}
    return distillery.distill(make_teacher(folder / "teacher"), "ls_gdfd/digits", folder / "run", seed=3, **chosen)
