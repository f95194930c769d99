"""The rules of the house that no linter knows: sizes, names, borders, and that every method owes its pages."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from distillery.methods.catalog import METHODS
from distillery.reporting.words import TERMS, TITLES
from distillery.synthesis.config import WEIGHT

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("src", "components", "pipelines", "images", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
COMPONENTS = sorted((ROOT / "components").glob("*/*/component.py"))
OF_EACH_STEP = {("steps", "Inputs"), ("steps", "Outputs")}
FILE_CAP, TEST_FILE_CAP, FUNCTION_CAP = 400, 500, 60

# Registries by the shape of their hosts, machines by the folders that only one of them has.
# Debian's package of a container engine has the name of a host.
REGISTRY = re.compile(r"(?:pypi|pythonhosted|npmjs|debian|ubuntu|docker|quay|ghcr)\.(?:org|com|io)\b(?<!docker\.io(?!/))")
MACHINE_PATH = re.compile(r"(?<![\w.~*}$/-])/(?:home|root|Users|work|mnt|opt|tmp)/\w")


def committed_files() -> list[Path]:
    """What git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def lines_naming(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}:{n}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "machine_path"])
def test_no_committed_line_names(pattern: re.Pattern[str]) -> None:
    assert lines_naming(pattern) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (REGISTRY, "--index-url https://" + "pypi" + ".org/simple"),
        (REGISTRY, "FROM " + "docker" + ".io/library/python:3.11"),
        (MACHINE_PATH, "see /" + "home/someone/x"),
        (MACHINE_PATH, 'open("/' + 'tmp/x")'),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


def test_requirements_carry_hashes_and_no_addresses() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, f"{path.name} names an address"
        pinned = re.findall(r"^[A-Za-z0-9_.\[\]-]+==[^ ]+ .*\\\n(?:    --hash=sha256:[0-9a-f]{64})", text, flags=re.MULTILINE)
        named = re.findall(r"^[A-Za-z0-9].*$", text, flags=re.MULTILINE)
        assert len(pinned) == len(named) > 0, f"{path.name} has a requirement without a hash"


def test_every_package_says_what_it_is() -> None:
    folders = {path.parent for path in SOURCES if "benchmarks" not in path.parts}
    missing = [name_of(folder) for folder in folders if list(folder.glob("*.py")) and not (folder / "__init__.py").exists()]
    assert sorted(missing) == ["src"] or missing == []
    silent = [name_of(path) for path in SOURCES if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_no_room_is_empty() -> None:
    folders = [path.parent for path in SOURCES if path.name == "__init__.py"]
    empty = [name_of(folder) for folder in folders if not [p for p in folder.rglob("*") if p.is_file() and p.name != "__init__.py"]]
    assert empty == []


def test_no_file_above_the_cap() -> None:
    caps = {**dict.fromkeys(SOURCES, FILE_CAP), **dict.fromkeys((ROOT / "tests").rglob("*.py"), TEST_FILE_CAP)}
    assert [f"{name_of(path)}: {n}" for path, cap in caps.items() if (n := path.read_text().count("\n")) > cap] == []


def test_no_function_above_the_cap() -> None:
    long = []
    for path in SOURCES:
        for node in functions(ast.parse(path.read_text())):
            spelled_out = node.body[0].lineno - node.lineno if path in COMPONENTS else 0  # what kfp reads the interface from
            if body_length(node) - spelled_out > FUNCTION_CAP:
                long.append(f"{name_of(path)}:{node.lineno} {node.name}: {body_length(node)}")
    assert long == []


def test_public_functions_and_classes_are_documented() -> None:
    undocumented = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert undocumented == []


def test_no_two_public_classes_have_one_name() -> None:
    """Whoever reads a name must know what it is without looking where it comes from; each step has its own `Inputs` and `Outputs`."""
    defined: dict[str, list[str]] = {}
    for path in SOURCES:
        if {"src", "components", "pipelines"}.isdisjoint(path.relative_to(ROOT).parts[:1]):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and (path.parent.name, node.name) not in OF_EACH_STEP:
                defined.setdefault(node.name, []).append(f"{name_of(path)}:{node.lineno}")
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def source_of(name: str) -> str:
    """The file of a method: one a paper, which may have two rows."""
    return f"src/{METHODS[name].implementation.partition(':')[0].replace('.', '/')}.py"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_owes_what_contributing_says(name: str) -> None:
    owed = (
        source_of(name),
        f"src/distillery/recipes/{name}/digits.yaml",
        f"tests/methods/{name}.py",
        f"tests/equivalence/test_{name}.py",
        f"docs/methods/{name}.md",
    )
    said = (ROOT / "CONTRIBUTING.md").read_text()
    for path in owed:
        assert (ROOT / path).is_file(), path
        assert path.replace(Path(owed[0]).stem if path == owed[0] else name, "<name>") in said
    assert METHODS[name].title in (ROOT / "README.md").read_text()
    terms = {weight.removesuffix(WEIGHT) for weight in METHODS[name].load()[1]().weights}
    assert terms <= set(TERMS) & set(TITLES), "a term that the page has no words for"
    assert any(mutant.file == owed[0] for mutant in mutants())


def test_every_method_file_has_a_row() -> None:
    files = {name_of(path) for path in (ROOT / "src/distillery/methods").glob("*.py") if path.stem not in ("__init__", "catalog")}
    assert files == {source_of(name) for name in METHODS}
    assert {Path(file).stem for file in files} <= set(METHODS), "one row of a paper is called as its file"


def test_no_method_name_occurs_in_the_engine() -> None:
    words = [*METHODS, *(row.title for row in METHODS.values()), *(row.implementation.split(":")[1] for row in METHODS.values())]
    found = [
        f"{name_of(path)}: {word}"
        for path in (ROOT / "src/distillery/engine").glob("*.py")
        for word in words
        if word.lower() in path.read_text().lower()
    ]
    assert found == []


@pytest.mark.parametrize("path", sorted((ROOT / "src/distillery/steps").glob("*.py")), ids=lambda path: path.stem)
def test_steps_define_no_config(path: Path) -> None:
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert [
        node.name for node in classes if any("Config" in ast.unparse(base) or "Section" in ast.unparse(base) for base in node.bases)
    ] == []


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.parent.name)
def test_a_component_is_a_thin_shim(path: Path) -> None:
    tree = ast.parse(path.read_text())
    at_top = [name.split(".")[0] for node in tree.body for name in modules_of(node)]
    assert [name for name in at_top if name not in {*sys.stdlib_module_names, "kfp", "distillery_kfp"}] == []
    inside = {name for function in functions(tree) for node in ast.walk(function) for name in modules_of(node)}
    steps = {name for name in inside if name.startswith("distillery.")} - {"distillery.step_table"}  # which types its paths
    assert len(steps) == 1, f"a component calls one step, not {sorted(steps)}"
    assert all(name.startswith("distillery.steps") or name == "distillery" for name in steps)
    assert {name.split(".")[0] for name in inside} <= {*sys.stdlib_module_names, "distillery"}


def test_there_are_components() -> None:
    making = {
        "extract_statistics",
        "train_generator",
        "materialize",
        "open_set",
        "extract_class_statistics",
        "train_student",
        "distill_online",
    }
    expected = {"plan", *making, "evaluate", "register"}
    assert {path.parent.name for path in COMPONENTS} == expected


@pytest.mark.parametrize("module", ["distillery", "distillery.methods.catalog", "distillery.models.catalog", "distillery.recipes.loader"])
def test_listing_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'kfp', 'mlflow', 'boto3', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@cache
def mutants() -> tuple[Any, ...]:
    """The mistakes that `make mutants` makes."""
    spec = spec_from_file_location("mutants_run", ROOT / "tests/mutants/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found: tuple[Any, ...] = module.MUTANTS
    return found


def test_every_mutant_applies_to_one_line_and_names_its_tests() -> None:
    wrong = [mutant.name for mutant in mutants() if (ROOT / mutant.file).read_text().count(mutant.old) != 1]
    assert wrong == []
    assert all((ROOT / mutant.tests).is_file() for mutant in mutants())


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls of a function, or of a method, of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            yield node


def test_each_format_has_a_name_of_its_own_and_one_module_that_writes_it() -> None:
    named: dict[str, list[str]] = {}
    foreign, stampers = [], []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        own = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and list(calls_of(node.value, "Format")):
                own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for call in calls_of(tree, "Format"):
            assert isinstance(call.args[0], ast.Constant)
            named.setdefault(str(call.args[0].value), []).append(name_of(path))
        writers = [call.func.value for call in calls_of(tree, "write") if isinstance(call.func, ast.Attribute)]
        writers += [call.args[0] for call in calls_of(tree, "write_tensors")]
        constants = {node.id for node in writers if isinstance(node, ast.Name) and node.id.isupper()}
        foreign += [f"{name_of(path)}: {name}" for name in constants - own]
        stampers += [name_of(path) for _ in calls_of(tree, "stamp")]
    assert len(named) >= 15
    assert {name: paths for name, paths in named.items() if len(paths) > 1} == {}
    assert foreign == []
    assert set(stampers) == {"src/distillery/documents.py", "src/distillery/tensor_files.py"}


def test_errors_are_the_five_that_are_drawn() -> None:
    raised = re.compile(r"class (\w+)\([^)]*(?:Error|Exception)\b[^)]*\)")
    defined = {name for path in SOURCES for name in raised.findall(path.read_text())}
    assert defined == {"DistilleryError", "ConfigError", "MissingResourceError", "CheckpointMismatchError", "StoreError"}
