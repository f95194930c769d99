"""One tiny teacher for all tests of the engine."""

from pathlib import Path

import pytest

from distillery.engine.checkpoint import Checkpoints
from distillery.engine.progress import Progress
from distillery.engine.session import Session
from distillery.storage import FolderStore
from distillery.types import Classifier
from fakes import tiny_teacher


@pytest.fixture(scope="package")
def teacher() -> Classifier:
    return tiny_teacher(steps=25)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(Checkpoints(FolderStore(tmp_path / "checkpoints")), Progress(tmp_path, "test"))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "set")
