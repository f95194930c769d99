"""The table of variables holds all that steps read: sources are searched for names, and a planted one is found."""

import ast
from pathlib import Path

import pytest
import yaml

from distillery.step_table import STEPS
from distillery.storage.cache import DEFAULT_BYTES
from distillery_kfp.pipelines.metadata import metadata
from distillery_kfp.pipelines.variables import SCRATCH_MOUNT, VARIABLES, keys_of, render

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FAMILIES = ("DISTILLERY_", "AWS_", "S3_", "MLFLOW_", "KFP_", "KUBERNETES_")
PASSED_ON = {
    "allowance.py": "by a constant",
    "command.py": "by a tuple of constants",
    "environment.py": "puts back what was there",
    "patience.py": "by tables of constants",
    "process.py": "puts back what was there",
    "redaction.py": "looks for passwords",
    "s3.py": "by constants, from a copy",
}
"""Files that ask the environment for a name which only runs show: what they ask for stands in them as a text."""


def families_named(tree: ast.AST) -> set[str]:
    """Every text of a source that is the name of a variable of ours or of a library that steps use."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if text.startswith(FAMILIES) and text.replace("_", "").isalnum() and text.isupper() and text[-1] != "_"}


def asked(tree: ast.AST) -> list[ast.AST]:
    """What a source does with the environment: the name it asks for, or the environment itself where it hands that on."""
    environments = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb"))
        or (isinstance(node, ast.Name) and node.id == "environ")
    ]
    named: dict[int, ast.AST] = {}
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and node.value in environments:
            named[id(node.value)] = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.value in environments and node.args:
            named[id(node.func.value)] = node.args[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "getenv":
            found.append(node.args[0])
    return found + [named.get(id(node), node) for node in environments]


def names_read(tree: ast.AST) -> set[str]:
    """Every name that a source asks the environment for, of whichever family."""
    return {str(node.value) for node in asked(tree) if isinstance(node, ast.Constant)}


def passes_on(tree: ast.AST) -> bool:
    """Whether a source asks for a name that does not stand there, or hands the environment on."""
    return any(not isinstance(node, ast.Constant) for node in asked(tree))


def variables_in(text: str) -> set[str]:
    tree = ast.parse(text)
    return families_named(tree) | names_read(tree)


def test_every_variable_that_steps_read_is_in_the_table() -> None:
    found = {name: path.name for path in SOURCES for name in variables_in(path.read_text())}
    assert {name: where for name, where in found.items() if name not in VARIABLES} == {}, "give it a row in pipelines/variables.py"


def test_the_table_holds_nothing_that_nobody_reads() -> None:
    found = {name for path in SOURCES for name in variables_in(path.read_text())}
    assert {row.name for row in VARIABLES.values() if row.reader == "distillery"} - found == set()


@pytest.mark.parametrize(
    "planted",
    [
        'import os\nx = os.environ.get("DISTILLERY_NEW")',
        'import os\nx = os.environ["HF_HOME"]',
        'from os import environ\nx = environ["HF_HOME"]',
        'from os import environ as e, environ\nx = "HF_HOME" and environ.pop("HF_HOME")',
        'import os as o\nx = o.environ.get("HF_HOME")',
        'from os import getenv\nx = getenv("HF_HOME")',
        'import os\nx = os.getenv("TORCH_HOME", "")',
        'import os\nos.environ.setdefault("OMP_NUM_THREADS", "1")',
        'import os\nNAME = "AWS_PROFILE_NEW"\nx = os.environ.get(NAME)',
        'def f(chosen):\n    return chosen.get("MLFLOW_NEW")',
    ],
)
def test_a_new_variable_is_found(planted: str) -> None:
    assert len(variables_in(planted) - set(VARIABLES)) == 1


def test_whoever_passes_the_environment_on_is_known() -> None:
    assert {path.name for path in SOURCES if passes_on(ast.parse(path.read_text()))} == set(PASSED_ON)


@pytest.mark.parametrize(
    "planted",
    ["import os\nf(os.environ)", "import os\nx = os.environ[name]", "import os\nfor name in os.environ:\n    pass", "x = os.getenv(n)"],
)
def test_a_new_one_is_found(planted: str) -> None:
    assert passes_on(ast.parse(planted))


def test_names_and_keys_are_unique() -> None:
    keys = [row.key for row in VARIABLES.values() if row.key]
    assert len(keys) == len(set(keys))
    assert {row.way for row in VARIABLES.values() if row.key} == {"config map", "secret"}
    assert keys_of("config map", required=True) == {"store": "DISTILLERY_STORE"}


def test_nothing_secret_comes_by_the_config_map() -> None:
    named = {row.name for row in VARIABLES.values() if any(word in row.name for word in ("KEY", "TOKEN", "PASSWORD", "USERNAME"))}
    assert named == set(keys_of("secret").values())


@pytest.mark.parametrize("step", STEPS)
def test_the_read_cache_fits_into_the_scratch_volume(step: str) -> None:
    assert VARIABLES["DISTILLERY_WORKDIR"].value.startswith(f"{SCRATCH_MOUNT}/")
    scratch = metadata(step).scratch
    assert scratch.endswith("Gi")
    assert int(scratch.removesuffix("Gi")) * 1024**3 >= DEFAULT_BYTES + 8 * 1024**3


def test_the_guide_shows_the_table_as_it_is() -> None:
    assert render() in (ROOT / "docs/guides/cluster.md").read_text(), f"put this into docs/guides/cluster.md:\n{render()}"


def test_the_guides_limit_range_has_room_for_every_scratch_volume() -> None:
    text = (ROOT / "docs/guides/cluster.md").read_text()
    manifests = [yaml.safe_load(block.partition("```")[0]) for block in text.split("```yaml\n")[1:]]
    (limits,) = [manifest for manifest in manifests if manifest.get("kind") == "LimitRange"]
    most = limits["spec"]["limits"][0]["default"]["ephemeral-storage"]
    assert int(most.removesuffix("Gi")) > max(int(metadata(step).scratch.removesuffix("Gi")) for step in STEPS)


def test_the_guides_config_map_and_secret_have_only_known_keys() -> None:
    text = (ROOT / "docs/guides/cluster.md").read_text()
    manifests = {found.get("kind"): found for block in text.split("```yaml\n")[1:] if (found := yaml.safe_load(block.partition("```")[0]))}
    settings = set(manifests["ConfigMap"]["data"]) - {"ca.crt"}
    assert "store" in settings <= {*keys_of("config map"), *keys_of("config map", required=True)}
    assert set(manifests["Secret"]["stringData"]) <= set(keys_of("secret"))
