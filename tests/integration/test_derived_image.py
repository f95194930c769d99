"""The derived image of docs/guides/cluster.md holds what a step needs to find a network of one's own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from containers import Docker
from distillery_kfp.pipelines.deployment import choose_deployment, faults_of

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
CLUSTER = (GUIDES / "cluster.md").read_text()
NETWORK = """
import sys
from distillery.errors import ConfigError
from distillery.models.catalog import Architecture, build_network
from distillery.types import ImageSpec
spec = ImageSpec(channels=1, height=12, width=12, mean=(0.4,), std=(0.3,))
try:
    network = build_network(Architecture(name="my_models.nets:leaf_net", arguments={"width": 8}), spec, 3)
    sys.stdout.write(sys.modules[network.__class__.__module__].__name__ + " " + sys.modules["my_models.nets"].__file__)
except ConfigError as error:
    sys.stdout.write(f"refused: {error}")
"""


def block(language: str, text: str = CLUSTER, start: str = "") -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return next(each for each in found if each.startswith(start))


def instructions() -> list[list[str]]:
    return [line.split() for line in block("dockerfile").splitlines()]


def by_hand(context: Path, root: Path) -> dict[str, str]:
    """Do what the Containerfile says to a folder, and return the variables of the image."""
    variables: dict[str, str] = {}
    for name, *words in instructions():
        if name == "COPY":
            source, target = words
            shutil.copytree(context / source, root / target.lstrip("/"))
        elif name == "ENV":
            variables.update(word.split("=", 1) for word in words)
        else:
            assert name in ("ARG", "FROM"), f"{name} is not understood here"
    return variables


def by_docker(context: Path, root: Path, docker: Docker) -> dict[str, str]:
    """Build it upon nothing, and unpack it."""
    (context / "Containerfile").write_text(block("dockerfile"))
    tag = "distillery-test/leaf:1.0.0"
    docker("build", "--build-arg", "BASE=scratch", "--file", "Containerfile", "--tag", tag, ".", cwd=context)
    made = docker("create", tag, "nothing").stdout.strip()
    docker("export", "--output", str(context / "image.tar"), made)
    settings = json.loads(docker("inspect", "--format", "{{json .Config.Env}}", tag).stdout)
    with tarfile.open(context / "image.tar") as image:
        image.extractall(root, [member for member in image.getmembers() if member.name.startswith("srv")], filter="data")
    return dict(row.split("=", 1) for row in settings)


def in_image(root: Path, variables: dict[str, str], allowed: str) -> str:
    """What the network of the guide answers where the image's files are."""
    paths = ":".join(str(root / path.lstrip("/")) for path in variables["PYTHONPATH"].split(":"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILLERY_", "PYTHONPATH"))}
    environment = {**kept, "PYTHONPATH": paths, "DISTILLERY_ALLOW_MODULES": allowed, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", NETWORK], env=environment, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("build", ["by hand", pytest.param("by docker", marks=pytest.mark.integration)])
def test_a_network_of_ones_own_is_found_in_the_derived_image(build: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    context, root = tmp_path / "context", tmp_path / "root"
    (context / "my_models").mkdir(parents=True)
    root.mkdir()
    nets = block("python", (GUIDES / "foreign-teacher.md").read_text(), "# my_models/nets.py")
    (context / "my_models" / "nets.py").write_text(nets)
    if build == "by hand":
        variables = by_hand(context, root)
    else:
        variables = by_docker(context, root, request.getfixturevalue("docker"))
    (allowed,) = re.findall(r"`allow_modules: (\S+)`", CLUSTER)
    assert in_image(root, variables, allowed) == f"torch.nn.modules.container {root}/srv/networks/my_models/nets.py"


def test_the_guides_images_are_those_it_compiles_with(tmp_path: Path) -> None:
    built = dict(re.findall(r"--build-arg BASE=(\S+) -t (\S+) ", block("sh", start="docker build")))
    (tmp_path / "images.yaml").write_text(block("yaml", start="# images.yaml"))
    assert set(choose_deployment(table=str(tmp_path / "images.yaml")).used.values()) == set(built.values())
    (registry,) = set(re.findall(r"compile --out compiled --registry (\S+)", CLUSTER))
    assert set(choose_deployment(registry).used.values()) == set(built)
    assert {faults_of(reference) for pair in built.items() for reference in pair} == {""}
