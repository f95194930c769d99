"""Toy objectives in the catalog, and a teacher that nobody has trained."""

import pytest

from distillery.models.catalog import build_network
from distillery.seeding import seeded
from distillery.types import Classifier
from fakes import CLASSES, CPU, SPEC, TINY
from toy_objectives import register


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def teacher() -> Classifier:
    with seeded(1, "teacher"):
        return CPU.place(Classifier(build_network(TINY, SPEC, len(CLASSES)), SPEC, CLASSES)).freeze()


@pytest.fixture
def student() -> Classifier:
    """Of the teacher's own architecture, so that every layer has its like."""
    with seeded(2, "student"):
        return CPU.place(Classifier(build_network(TINY, SPEC, len(CLASSES)), SPEC, CLASSES)).eval()
