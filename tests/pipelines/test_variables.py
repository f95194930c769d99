"""The table of variables holds all that steps read: sources are searched for names, and a planted one is found."""

import ast
from pathlib import Path

import pytest
import yaml

from distillery.storage.cache import DEFAULT_BYTES
from distillery_kfp.pipelines.metadata import STAGES, metadata
from distillery_kfp.pipelines.variables import SCRATCH_MOUNT, VARIABLES, keys_of, render

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FAMILIES = ("DISTILLERY_", "AWS_", "S3_", "MLFLOW_", "KFP_", "KUBERNETES_")
WHOLE = {"environment.py", "redaction.py"}
"""Files that go through the environment whole: one puts it back, the other looks for passwords."""


def families_named(tree: ast.AST) -> set[str]:
    """Every text of a source that is the name of a variable of ours or of a library that steps use."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if text.startswith(FAMILIES) and text.replace("_", "").isalnum() and text.isupper() and text[-1] != "_"}


def names_read(tree: ast.AST) -> set[str]:
    """Every name that a source asks the environment for, of whichever family."""
    found = set()
    for node in ast.walk(tree):
        asked: ast.AST | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            asked = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get", "os.environ.setdefault"):
            asked = node.args[0]
        if isinstance(asked, ast.Constant):
            found.add(str(asked.value))
    return found


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
        'import os\nx = os.getenv("TORCH_HOME", "")',
        'import os\nos.environ.setdefault("OMP_NUM_THREADS", "1")',
        'import os\nNAME = "AWS_PROFILE_NEW"\nx = os.environ.get(NAME)',
        'def f(chosen):\n    return chosen.get("MLFLOW_NEW")',
    ],
)
def test_a_new_variable_is_found(planted: str) -> None:
    assert len(variables_in(planted) - set(VARIABLES)) == 1


def test_whoever_reads_the_whole_environment_is_known() -> None:
    """A name that is computed could not be found, so the files that pass the environment on are few."""
    reads = {path.name for path in SOURCES if "os.environ" in path.read_text()}
    literal = {path.name for path in SOURCES if names_read(ast.parse(path.read_text())) or families_named(ast.parse(path.read_text()))}
    assert reads - literal <= WHOLE


def test_names_and_keys_are_unique() -> None:
    keys = [row.key for row in VARIABLES.values() if row.key]
    assert len(keys) == len(set(keys))
    assert {row.way for row in VARIABLES.values() if row.key} == {"config map", "secret"}
    assert keys_of("config map", required=True) == {"store": "DISTILLERY_STORE"}


def test_nothing_secret_comes_by_the_config_map() -> None:
    named = {row.name for row in VARIABLES.values() if any(word in row.name for word in ("KEY", "TOKEN", "PASSWORD", "USERNAME"))}
    assert named == set(keys_of("secret").values())


@pytest.mark.parametrize("step", STAGES)
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
    assert int(most.removesuffix("Gi")) > max(int(metadata(step).scratch.removesuffix("Gi")) for step in STAGES)


def test_the_guides_config_map_and_secret_have_only_known_keys() -> None:
    text = (ROOT / "docs/guides/cluster.md").read_text()
    manifests = {found.get("kind"): found for block in text.split("```yaml\n")[1:] if (found := yaml.safe_load(block.partition("```")[0]))}
    settings = set(manifests["ConfigMap"]["data"]) - {"ca.crt"}
    assert "store" in settings <= {*keys_of("config map"), *keys_of("config map", required=True)}
    assert set(manifests["Secret"]["stringData"]) <= set(keys_of("secret"))
