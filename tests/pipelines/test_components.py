"""House rules of the shims: they stay thin, import nothing heavy, and their papers are in order."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from distillery.step_table import STEPS
from distillery_kfp.pipelines.metadata import images, metadata
from distillery_kfp.pipelines.readme import readme_path, render

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "components").glob("*/*/component.py"))


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_every_folder_is_in_the_table() -> None:
    assert {f"{path.parent.parent.name}/{path.parent.name}" for path in FILES} == {f"{row.stage}/{name}" for name, row in STEPS.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_shim_is_thin_and_imports_nothing_heavy(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    signature = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    spelt_out = signature.body[0].lineno - signature.lineno  # what kfp reads the component's interface from
    assert len(text.splitlines()) - spelt_out < 40
    heads = {name.partition(".")[0] for node in tree.body for name in imports(node)}
    assert heads <= {"kfp"} | set(sys.stdlib_module_names)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == [path.parent.name]
    inside = {name for node in ast.walk(functions[0]) for name in imports(node) if name.partition(".")[0] not in sys.stdlib_module_names}
    assert inside - {"distillery.step_table"} == {f"distillery.steps.{path.parent.name}"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_image_is_the_table_s(path: Path) -> None:
    decorator = path.read_text().partition("@dsl.component(")[2].partition("\n")[0]
    assert f'base_image="{images()[metadata(path.parent.name).image]}"' in decorator
    assert "packages_to_install=[], install_kfp_package=False" in decorator


def test_images_never_move() -> None:
    assert all(re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image) and "python" in image for image in images().values())


@pytest.mark.parametrize("name", STEPS)
def test_metadata(name: str) -> None:
    about = metadata(name)
    assert about.name == name
    assert about.timeout_seconds > 0
    assert about.gpu in ("none", "optional", "required")
    assert about.stability in ("alpha", "beta", "stable")
    assert (about.image == "gpu") == (about.gpu != "none")
    assert about.caching == STEPS[name].keeps
    assert (about.gpu != "none") == STEPS[name].accelerated
    assert about.size in (("medium", "large") if about.gpu != "none" else ("first", "small"))
    assert (about.size == "first") == (name == "plan"), "only what stands behind the plan can be placed by it"
    assert set(yaml.safe_load((ROOT / "components" / STEPS[name].stage / name / "metadata.yaml").read_text())) == set(vars(about))


@pytest.mark.parametrize("name", STEPS)
def test_readme_is_as_generated(name: str) -> None:
    assert readme_path(name).read_text() == render(name), "run `python -m distillery_kfp.pipelines.readme`"
