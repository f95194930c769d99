"""No module leads back to itself, no room opens upwards, and the page that draws them is current."""

from pathlib import Path

import pytest

from import_graph import PAGE, Graph, circles, direct, floors, imports, page, room_of, rooms, sources


@pytest.fixture(scope="module")
def graph() -> Graph:
    return imports(sources())


def test_no_module_leads_back_to_itself(graph: Graph) -> None:
    """Neither by imports at its head nor by those within functions."""
    assert circles(graph) == []
    assert len(graph["distillery.steps.plan"]) > 5, "nothing was read"


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    library = tmp_path / "src" / "distillery"
    for name, text in {
        "__init__": "",
        "a": "import distillery.b",
        "b": "def late():\n    from distillery.room import inner",
        "room/__init__": "",
        "room/inner": "from distillery.a import thing",
        "free": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from distillery.other import it\n",
        "other": "from distillery import free",
    }.items():
        path = library / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imports(sources(tmp_path))
    assert circles(found) == [["distillery.a", "distillery.b", "distillery.room.inner"]]
    assert rooms(found) == {"a": {"b"}, "b": {"room"}, "room": {"a"}, "free": set(), "other": {"free"}}


def test_every_room_stands_on_a_floor_and_opens_downwards(graph: Graph) -> None:
    height = {room: -number for number, floor in enumerate(floors()) for room in floor}
    between = rooms(graph)
    assert between.keys() <= height.keys()
    assert [(room, other) for room, others in between.items() for other in others if height[other] > height[room]] == []


def test_an_arrow_that_others_imply_is_left_out() -> None:
    assert direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert [
        room_of(name) for name in ("distillery", "distillery.errors", "distillery_kfp.pipelines.lint", "distillery_kfp.pipelines.cli.app")
    ] == [
        *("", "errors"),
        *("pipelines", "cli"),
    ]


def test_the_drawing_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "docs/architecture.md is out of date: run make graph, look at the difference, commit it"
    )
