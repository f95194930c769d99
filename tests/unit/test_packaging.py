"""What pyproject.toml promises of packages: each is used, an extra is imported late, nothing is bounded above without a reason."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillery.extras import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL: dict[str, list[str]] = PROJECT["optional-dependencies"]
MODULES = {"kfp-kubernetes": "kfp.kubernetes", "pyyaml": "yaml", "scikit-learn": "sklearn", "pillow": "PIL", "boto3": "boto3"}
NEEDED_BY_OTHERS = {"onnxscript": "torch.onnx"}
SOURCES = sorted(path for folder in ("src", "components", "pipelines") for path in (ROOT / folder).rglob("*.py"))
WHOLE_FILES = {"src/distillery/tracking/mlflow.py", "src/distillery/storage/s3.py"}
"""Imported only where their extra is asked for; so is every component, and a pipeline's graph, which kfp runs."""
OURS = {"distillery", "distillery_kfp"}
WITH_KFP = "docstring_parser"


def name_of(line: str) -> str:
    return re.split(r"[<>=\[]", line)[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    """What a tree imports, as dotted names: modules, and names taken from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module" and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value).lstrip(".")


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """The packages, not ours and not Python's, that a module imports as it is imported itself."""
    for statement in tree.body:
        if not isinstance(statement, ast.If | ast.FunctionDef | ast.ClassDef):
            yield from {name.split(".")[0] for name in imports_of(statement)} - OURS - sys.stdlib_module_names


def module_of(package: str) -> str:
    return MODULES.get(package, package)


CORE = {module_of(name_of(line)) for line in PROJECT["dependencies"]}


def test_every_package_is_imported_somewhere() -> None:
    imported = {name for path in SOURCES for name in imports_of(ast.parse(path.read_text()))}
    used = imported | {name.split(".")[0] for name in imported}
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS for line in OPTIONAL[extra]]
    packages = {name_of(line) for line in lines} - set(NEEDED_BY_OTHERS)
    assert {package for package in packages if module_of(package) not in used} == set()
    assert any(NEEDED_BY_OTHERS["onnxscript"] in path.read_text() for path in SOURCES)


def test_the_extras_are_the_ones_that_sentences_name() -> None:
    assert set(OPTIONAL) == {*EXTRAS, "all", "dev"}
    for extra, modules in EXTRAS.items():
        promised = {module_of(name_of(line)).split(".")[0] for line in OPTIONAL[extra]}
        assert set(modules) == promised, extra
    assert OPTIONAL["all"] == [f"distillery[{','.join(EXTRAS)}]"]


def test_nothing_of_an_extra_is_imported_before_it_is_asked_for() -> None:
    early = {}
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if name in WHOLE_FILES or name.endswith("component.py"):
            continue
        if others := set(at_import_time(ast.parse(path.read_text()))) - CORE - {"pydantic_core"}:  # pydantic's own
            early[name] = others
    graphs = {f"pipelines/{name}.py" for name in ("resources", "graph", "wiring", "readme", "ensemble_distillation")}
    assert set(early) <= graphs
    assert {other for found in early.values() for other in found} <= {"kfp", WITH_KFP}


def test_what_is_imported_late_is_of_the_core_or_of_an_extra() -> None:
    known = CORE | {module for modules in EXTRAS.values() for module in modules}
    late = {name.split(".")[0] for path in SOURCES for name in imports_of(ast.parse(path.read_text()))}
    # botocore comes with boto3; onnxruntime is asked for where it is, and not promised
    brought = {"pydantic_core", "botocore", "onnxruntime", WITH_KFP}
    assert late - known - OURS - sys.stdlib_module_names - brought - {"api", "None"} == set()


@pytest.mark.parametrize("line", PROJECT["dependencies"] + [line for extra in EXTRAS for line in OPTIONAL[extra]])
def test_a_range_has_a_beginning_and_an_end_only_where_newer_ones_break(line: str) -> None:
    assert re.search(r"[>=]=\d", line), "no lower bound"
    if name_of(line) not in ("kfp", "kfp-kubernetes"):
        assert not re.search(r"<|==|~=|!=", line), "what does a newer version break?"


def test_what_is_locked_is_what_is_asked_for() -> None:
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==", (ROOT / "requirements/locked.txt").read_text(), flags=re.MULTILINE))
    asked = {name_of(line).lower() for lines in (PROJECT["dependencies"], *OPTIONAL.values()) for line in lines} - {"distillery"}
    assert asked - locked == set()
