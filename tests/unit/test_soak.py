"""Tests marked soak run when they are asked for, and at no other time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Item:
    def __init__(self, nodeid: str, *marks: str) -> None:
        self.nodeid, self.marks = nodeid, marks

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> Any:
    ours = str(ROOT / "tests/conftest.py")
    return next(plugin for plugin in request.config.pluginmanager.get_plugins() if getattr(plugin, "__file__", None) == ours)


@pytest.mark.parametrize(
    ("markexpr", "args", "left"),
    [
        ("", ["tests"], ["quick"]),
        ("", ["tests/a.py"], ["quick"]),
        ("not slow", ["tests"], ["quick"]),
        ("soak", ["tests"], ["quick", "long[1]"]),  # pytest itself has left the quick one out by then
        ("not soak", ["tests"], ["quick", "long[1]"]),  # likewise the long one
        ("", ["/far/away/tests/a.py::long[1]"], ["quick", "long[1]"]),
        ("", ["tests/a.py::long"], ["quick", "long[1]"]),
        ("", ["tests/a.py::quick"], ["quick"]),
    ],
)
def test_soak_is_left_out_unless_it_is_named(hook: Any, markexpr: str, args: list[str], left: list[str]) -> None:
    deselected: list[Item] = []
    config = SimpleNamespace(
        option=SimpleNamespace(markexpr=markexpr),
        args=args,
        hook=SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items)),
    )
    items = [Item("tests/a.py::quick"), Item("tests/a.py::long[1]", "soak")]
    hook.pytest_collection_modifyitems(config, items)
    assert [item.nodeid.partition("::")[2] for item in items] == left
    assert len(items) + len(deselected) == 2


def test_make_soak_selects_them_without_a_time_limit() -> None:
    rule = (ROOT / "Makefile").read_text().partition("\nsoak:")[2].partition("\n\n")[0]
    assert "-m soak --timeout 0" in rule
