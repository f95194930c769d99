"""The public surface: what it lists is what is there, it costs nothing before it is asked, and no step's key hangs on it."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distillery
from distillery.api.surface import PLACES
from distillery.step_version import SourceTree

ROOT = Path(distillery.__file__).parent


def test_what_is_listed_is_sorted_visible_and_documented() -> None:
    assert distillery.__all__ == sorted(distillery.__all__)
    assert dir(distillery) == distillery.__all__ == list(PLACES)
    for name in distillery.__all__:
        assert getattr(distillery, name).__doc__, name


def test_what_a_type_checker_sees_is_what_is_there() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"distillery.{place}" for name, place in PLACES.items()}
    for name, module in seen.items():
        assert getattr(distillery, name) is getattr(sys.modules[module], name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        distillery.distil  # noqa: B018


LISTING = """
import sys, time
began = time.perf_counter()
import distillery
seconds = time.perf_counter() - began
error = distillery.DistilleryError
heavy = [name for name in ("torch", "numpy", "pydantic", "yaml", "rich", "kfp", "mlflow", "boto3") if name in sys.modules]
print(heavy, seconds < 0.5, "distillery.steps" in sys.modules)
"""


def test_importing_it_and_its_errors_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True", "False"]


def test_no_step_reaches_the_surface_nor_hangs_on_what_it_lists(tmp_path: Path) -> None:
    copy = tmp_path / "distillery"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    step = "distillery.steps.distill_online"
    assert not [name for name in SourceTree(copy).reach(step) if name.startswith("distillery.api")]
    before, face = SourceTree(copy).version(step), copy / "__init__.py"
    text = face.read_text()
    listed = text.replace('    "distill",\n', '    "distill",\n    "other",\n').replace("import Distilled, ", "import Other, Distilled, ")
    face.write_text(listed)
    assert face.read_text() != text
    assert SourceTree(copy).version(step) == before
    face.write_text(text + "\nimport os\n")
    assert SourceTree(copy).version(step) != before  # what runs there still counts


def test_no_module_of_the_house_takes_a_name_from_the_surface() -> None:
    """It could be missed by a step's version, which does not look behind `__getattr__`."""
    found = []
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "distillery"]
        whole = [node for node in ast.walk(tree) if isinstance(node, ast.Import) and "distillery" in {alias.name for alias in node.names}]
        taken = {alias.name for node in froms for alias in node.names} & set(PLACES)
        found += [f"{path.name}: {name}" for name in taken] + [path.name for _ in whole]
    assert found == []
