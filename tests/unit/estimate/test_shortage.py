"""An estimate beside what there is: each thing that it exceeds is one sentence."""

from dataclasses import replace
from pathlib import Path

import pytest

from distillery.estimate import shortage
from distillery.estimate.estimate import Counted, Estimate
from distillery.estimate.shortage import shortages
from distillery.recipes.loader import load_recipe
from distillery.storage import FolderStore, MemoryStore

FOUND = Estimate(load_recipe("students/digits-kd"), 0, Counted(), 0, (), 700, 100, 300, 200, "cpu", capacity=700)


@pytest.fixture(autouse=True)
def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "free_space", lambda store: 300)
    monkeypatch.setattr(shortage, "free_space", lambda folder: 200)


def test_what_just_suffices_is_enough(tmp_path: Path) -> None:
    assert shortages(FOUND, FolderStore(tmp_path), tmp_path) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"memory": 701}, "The largest step would take about 701 bytes of memory, and there are 700 bytes here: "),
        ({"store_peak": 301}, "The store would hold about 301 bytes, and 300 bytes are free at 'PLACE': free some, choose another store"),
        ({"workspace": 201}, "The workspace would hold about 201 bytes, and 200 bytes are free at 'PLACE': free some, choose another w"),
    ],
)
def test_what_is_exceeded_is_one_sentence(tmp_path: Path, more: dict[str, int], words: str) -> None:
    (sentence,) = shortages(replace(FOUND, **more), FolderStore(tmp_path), tmp_path)  # type: ignore[arg-type]
    assert sentence.replace("\N{NO-BREAK SPACE}", " ").startswith(words.replace("PLACE", str(tmp_path)))


def test_what_nobody_knows_is_not_told(tmp_path: Path) -> None:
    assert shortages(replace(FOUND, store_peak=2**60), MemoryStore(), tmp_path) == []
    assert len(shortages(replace(FOUND, memory=2**60), MemoryStore(), tmp_path)) == 1
