"""A step's version: everything that can change its result is in it, and nothing else."""

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import distillery
from distillery.methods.catalog import METHODS
from distillery.models.catalog import ARCHITECTURES
from distillery.step_table import STEPS as TABLE
from distillery.step_version import SourceTree, hash_module, hash_trees, step_version, tree_text
from distillery.students.catalog import OBJECTIVES

SOURCES = Path(distillery.__file__).parent
STEPS = tuple(name for name in TABLE if name != "plan")
FILES = {
    "__init__.py": '"""A package."""\n',
    "steps/__init__.py": "",
    "steps/draw.py": '''"""A step."""
import pkg.numbers as n
from pkg import shapes
from ..catalog import ROWS
from . import common

RATE = 1
"""How fast."""


def run(x: int) -> int:
    """Run."""
    from pkg.late import (
        slow as quick,
    )

    # a reason
    return quick(x) + RATE
''',
    "steps/common.py": "y = 1\n",
    "steps/other.py": "from pkg.steps import draw\nz = 1\n",
    "numbers/__init__.py": "from .deep import *\n",
    "numbers/deep.py": "q = 1\n",
    "shapes.py": "try:\n    import pkg.fast\nexcept ImportError:\n    pass\n",
    "fast.py": "f = 1\n",
    "late.py": "def slow(x):\n    return x\n",
    "catalog.py": "ROWS = {'a': 'pkg.parts.a:A', **{f'b{i}': 'pkg.parts.b:B' for i in (1, 2)}}\n",
    "parts/__init__.py": "",
    "parts/a.py": "class A:\n    def __call__(self):\n        '''Call.'''\n",
    "parts/b.py": "class B: ...\n",
    "typed.py": "t = 1\n",
}
UNREACHABLE = {"steps/other.py", "typed.py"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "pkg"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def version(package: Path) -> str:
    return SourceTree(package).version("pkg.steps.draw")


def edited(package: Path, name: str, edit: Callable[[str], str]) -> str:
    before = (package / name).read_text()
    after = edit(before)
    assert after != before
    (package / name).write_text(after)
    return version(package)


@pytest.mark.parametrize("name", [name for name, text in FILES.items() if text and name not in UNREACHABLE])
def test_a_line_more_in_any_reached_module_is_another_version(package: Path, name: str) -> None:
    before = version(package)
    assert edited(package, name, lambda text: text + "\nmore = 1\n") != before


@pytest.mark.parametrize("name", sorted(UNREACHABLE))
def test_an_edit_of_what_is_not_reached_leaves_it(package: Path, name: str) -> None:
    before = version(package)
    assert edited(package, name, lambda text: text + "\nmore = 1\n") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("steps/draw.py", "# a reason", "# a better reason\n    # in two lines"),
        ("steps/draw.py", "    # a reason\n", ""),
        ("steps/draw.py", '"""A step."""', '"""Another\nword."""'),
        ("steps/draw.py", '"""Run."""', '"""Run, import os, from pkg import typed."""'),
        ("steps/draw.py", '    """Run."""\n', ""),
        ("steps/draw.py", '"""How fast."""', ""),
        ("steps/draw.py", "\n\n\ndef", "\n\n\n\n\n\ndef"),
        ("steps/draw.py", "return quick(x) + RATE", "return (\n        quick(x)\n        + RATE\n    )"),
        ("parts/a.py", "'''Call.'''", "pass"),
        ("catalog.py", "'pkg.parts.a:A'", '"pkg.parts." "a:A"'),
        ("steps/common.py", "y = 1\n", "from typing import TYPE_CHECKING\n\ny = 1\nif TYPE_CHECKING:\n    from pkg import typed\n"),
    ],
)
def test_words_layout_and_types_are_no_new_work(package: Path, name: str, old: str, new: str) -> None:
    if "TYPE_CHECKING" in new:  # the condition itself is code, what stands in it is not
        edited(package, name, lambda text: new.replace("from pkg import typed", "pass"))
        before = version(package)
        assert edited(package, name, lambda text: new) == before
    else:
        before = version(package)
        assert edited(package, name, lambda text: text.replace(old, new)) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("steps/draw.py", "RATE = 1", "RATE = 2"),
        ("steps/draw.py", "quick(x) + RATE", "quick(x) - RATE"),
        ("late.py", "return x", "return 'x'"),
        ("parts/b.py", "class B", "class C"),
        ("numbers/deep.py", "q = 1", "q = 1.0"),
    ],
)
def test_any_other_edit_is(package: Path, name: str, old: str, new: str) -> None:
    before = version(package)
    assert edited(package, name, lambda text: text.replace(old, new)) != before


def test_two_modules_that_swap_their_text_are_another_version(package: Path) -> None:
    before = version(package)
    (package / "fast.py").write_text(FILES["steps/common.py"])
    assert edited(package, "steps/common.py", lambda text: FILES["fast.py"]) != before


def test_a_moved_folder_has_the_same_version(package: Path, tmp_path: Path) -> None:
    before = version(package)
    (tmp_path / "elsewhere").mkdir()
    assert version(package.rename(tmp_path / "elsewhere" / "pkg")) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_step_reaches_what_catalogs_name_and_no_step_that_it_does_not_use(step: str) -> None:
    reached = SourceTree(SOURCES).reach(f"distillery.steps.{step}")
    rows = [row.implementation for table in (METHODS, ARCHITECTURES, OBJECTIVES) for row in table.values()]
    assert {row.partition(":")[0] for row in rows} <= reached
    assert "distillery.ledger.prune" not in reached
    assert "distillery.ledger.audit" not in reached
    assert ("distillery.steps.distill_online" in reached) == (step == "distill_online")


IMPORT = """
import json, os, sys, torch
from importlib import import_module
for step in sys.argv[1:]:
    if not os.fork():
        import_module(f"distillery.steps.{step}")
        from distillery.methods.catalog import METHODS
        from distillery.models.catalog import ARCHITECTURES
        from distillery.students.catalog import OBJECTIVES
        rows = [row.implementation for row in (*METHODS.values(), *ARCHITECTURES.values(), *OBJECTIVES.values())]
        for name in {row.partition(":")[0] for row in rows}:
            import_module(name)
        os.write(1, (json.dumps({step: [name for name in sys.modules if name.split(".")[0] == "distillery"]}) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


def test_nothing_is_imported_that_is_not_reached() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT, *STEPS], capture_output=True, text=True, check=True)
    imported = {step: set(names) for line in done.stdout.splitlines() for step, names in json.loads(line).items()}
    tree = SourceTree(SOURCES)
    assert set(imported) == set(STEPS)
    for step, names in imported.items():
        assert len(names) > 50
        assert names - tree.reach(f"distillery.steps.{step}") == set()


def hidden_imports(source: str) -> list[str]:
    """Calls that load code by a name that no reader of the text can know."""
    loaders = {
        "import_module",
        "__import__",
        "find_spec",
        "spec_from_file_location",
        "run_module",
        "run_path",
        "exec",
        "eval",
        "resolve_name",
    }
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(node, node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) for node in calls]
    renamed = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and any(alias.name in loaders and alias.asname for alias in node.names)
    ]
    torch_s_own = ("self.eval", "eval()")  # nn.Module.eval takes no text
    return renamed + [
        ast.unparse(node)
        for node, name in names
        if name in loaders
        and not ast.unparse(node).endswith(torch_s_own)
        and not (node.args and isinstance(node.args[0], ast.Constant) and not str(node.args[0].value).startswith("."))
    ]


def test_only_catalogs_load_code_by_names_that_are_not_written_there() -> None:
    allowed = {
        "__init__.py": {"import_module('.api.surface', __name__)"},  # the public surface, from which no module of the house takes a name
        "extras.py": {"find_spec(module)"},  # whether it is there; it is imported by its name where it is used
        "api/running.py": {"import_module(f'distillery.steps.{step}')"},  # a step's version begins at its own module
        "api/surface.py": {"import_module(f'distillery.{PLACES[name]}')"},
        "catalog.py": {"import_module(module)"},  # of a row's implementation, which stands in the table as it is
        "models/catalog.py": {"import_module(module)", "find_spec(name)"},  # the second looks for a user's own module
        "models/allowance.py": {"import_module(path)"},  # a user's own module, which a section's sources name by hash
    }
    found = {path.relative_to(SOURCES).as_posix(): set(hidden_imports(path.read_text())) for path in SOURCES.rglob("*.py")}
    assert {name: calls - allowed.get(name, set()) for name, calls in found.items() if calls - allowed.get(name, set())} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import_module(name)",
        "importlib.import_module(f'distillery.{name}')",
        "import_module('.x', 'distillery')",
        "__import__(name)",
        "from importlib import import_module as load",
        "exec(text)",
        "runpy.run_module(name)",
        "pkgutil.resolve_name(row)",
    ],
)
def test_a_planted_hidden_import_is_found(planted: str) -> None:
    assert hidden_imports(planted)


def test_it_costs_little_and_is_taken_once() -> None:
    step_version("distill_online")
    began = time.perf_counter()
    for _ in range(100):
        step_version("distill_online")
    assert time.perf_counter() - began < 0.1
    assert step_version("distill_online") != step_version("materialize")


def test_a_module_of_the_users_counts_by_its_tree_and_anything_else_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    (folder / "old.py").write_text("print 'two'\n")  # no Python of today
    (folder / "zero.py").write_bytes(b"x = 1\0")
    (folder / "sizes.yaml").write_text("a: 1\n")
    (folder / "notes.txt").write_text("a")
    before, alone = hash_trees(folder), hash_module(folder / "a.py")
    (folder / "a.py").write_text('"""Nets."""\nx = 1  # one\n')
    (folder / "notes.txt").write_text("b")
    assert (hash_trees(folder), hash_module(folder / "a.py")) == (before, alone)
    for name, data in {"a.py": b"x = 2\n", "old.py": b"print 'three'\n", "zero.py": b"x = 2\0", "sizes.yaml": b"a: 1 # one\n"}.items():
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        assert hash_trees(folder) != before, name
        (folder / name).write_bytes(kept)
    assert hash_trees(folder) == before


def test_a_users_module_with_an_odd_escape_is_read_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = '\\d'\n")
    assert hash_module(tmp_path / "a.py")


def test_other_encodings_than_utf_8_are_read() -> None:
    assert tree_text("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1")) == "x = 'é'"
