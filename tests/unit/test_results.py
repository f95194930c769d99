"""docs/results.md says what the files of real runs say: it is generated from them, and every number in it stands in one of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import publish

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / publish.RESULTS, ROOT / publish.PAGE
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w]|\.\d|-\d)")


def numbers_of(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in NUMBER.findall(text)}


def values_of(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from values_of(key)
            yield from values_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value)
    elif isinstance(node, str):
        yield from numbers_of(node)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield float(node)


def unknown_numbers(page: str, folder: Path) -> set[float]:
    known = {value for path in folder.glob("*.json") for value in (*values_of(json.loads(path.read_text())), *numbers_of(path.name))}
    return numbers_of(page) - known


def test_the_page_is_what_the_files_say() -> None:
    records = publish.read(RESULTS)
    summary = publish.summarize(records)
    assert json.loads((RESULTS / publish.SUMMARY).read_text()) == summary, "run make results"
    assert PAGE.read_text() == publish.render(records, summary), "run make results"


def test_every_number_stands_in_a_file_of_a_real_run() -> None:
    assert unknown_numbers(PAGE.read_text(), RESULTS) == set()


def test_a_number_from_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"ratio": 1.94, "n": 5, "told": ["epoch 3"], "large": 51200}))
    assert unknown_numbers("1.94 of 51,200, n = 5, epoch 3, WRN-40-2 in float32", tmp_path) == set()
    assert unknown_numbers("ratio 1.95, 6 runs", tmp_path) == {1.95, 6.0}


def quality(row: str, seed: int, correct: int, settings: str = "aa", **more: Any) -> dict[str, Any]:
    return {
        "format": publish.FORMAT,
        "kind": "quality",
        "measured": f"2026-01-0{seed + 1}T00:00+00:00",
        "command": "python benchmarks/quality.py",
        "hardware": {"cpu": "A", "device": "cpu", "threads": 2, "precision": "float32", "native_bfloat16": False},
        "versions": {"torch": "2.15.0"},
        "dataset": "fashion_mnist",
        "row": row,
        "seed": seed,
        "settings": settings,
        "recipe": "ls_gdfd/fashion_mnist",
        "overrides": {},
        "teacher": {"name": "t", "parameters": 800, "correct": 930, "total": 1000},
        "student": {"name": "s", "parameters": 100, "correct": correct, "total": 1000},
        "minutes": 8.5,
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    curve = [{"epoch": 1, "minutes": 2.5, "correct": 700, "total": 1000}]
    teacher = quality("teacher", 0, 0)
    teacher.pop("student")
    rows = [teacher, quality("ls_gdfd", 0, 500, "old"), quality("ls_gdfd", 1, 880, curve=curve), quality("ls_gdfd", 2, 900)]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.json").write_text(json.dumps(row))
    return tmp_path


def test_means_are_over_equal_settings_and_earlier_ones_are_kept(folder: Path) -> None:
    assert publish.main(["--results", str(folder), "--page", str(folder / "page.md")]) == 0
    page = (folder / "page.md").read_text()
    head, earlier = page.split("Earlier settings")
    assert "| 89.0 % | 88.0 % | 4.0 | 2 | 880, 900 of 1000 | 100 (one in 8.0) | 8.5 |" in head
    assert "50.0 %" in earlier
    assert "89.0 %" not in earlier
    assert "70.0 % at 2.5 min" in page
    assert "93.0 %" in head
    assert unknown_numbers(page, folder) == set()


def test_rows_of_several_generators_stand_beside_those_of_one(folder: Path) -> None:
    several = quality("ls_gdfd", 3, 870, "ten", generators=10, statistics={"set": "ab"})
    (folder / "ten.json").write_text(json.dumps(several))
    assert publish.main(["--results", str(folder), "--page", str(folder / "page.md")]) == 0
    head = (folder / "page.md").read_text().split("Earlier settings")[0]
    assert "| LS-GDFD with 10 generators, no real image, statistics of each class from inverted ones | " in head
    assert "| LS-GDFD, no real image | " in head


def test_plans_of_students_stand_by_experiment_with_their_seeds(folder: Path) -> None:
    for day, correct in ((1, [3, 5]), (2, [880, 900])):
        record = {
            **{
                name: value for name, value in quality("students", day, 0).items() if name in ("format", "measured", "hardware", "versions")
            },
            "kind": "students",
            "command": "python benchmarks/students.py fast",
            "experiment": "fast",
            "dataset": "digits",
            "n": 2,
            "setting": {"student": "resnet8", "batch": 64, "rate": 0.1},
            "teacher": {"correct": 950, "total": 1000},
            "rows": {
                "fsp": {"says": "FSP", "steps": 640, "mean_percent": 89.0, "lowest_percent": 88.0, "correct": correct, "total": 1000},
                "all": {"says": "all of it", "steps": 0, "mean_percent": 91.0, "lowest_percent": 90.0, "correct": correct, "total": 1000},
            },
        }
        (folder / f"students-{day}.json").write_text(json.dumps(record))
    assert publish.main(["--results", str(folder), "--page", str(folder / "page.md")]) == 0
    page = (folder / "page.md").read_text()
    assert "## Plans of a student: digits, fast optimization" in page
    assert "Student `resnet8`, batch 64, rate 0.1; teacher 950 of 1,000. Seeds: n = 2; 2 thread" in page
    assert "| FSP | 640 | 89.00 % | 88.00 % | 880/1000, 900/1000 |" in page, "the newest record"
    assert "| all of it |  | 91.00 % |" in page
    assert "3/1000" not in page


def test_a_toy_run_is_refused(folder: Path) -> None:
    (folder / "toy.json").write_text(json.dumps({"format": publish.FORMAT, "kind": "speed", "tiny": True, "measured": ""}))
    with pytest.raises(AssertionError, match=r"toy\.json is no record of a real run"):
        publish.read(folder)
