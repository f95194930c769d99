"""The images on paper: a clean Containerfile, the lock's own packages, and a builder that writes only what a registry said."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distillery.errors import ConfigError, MissingResourceError
from distillery.provenance import code_version
from distillery_kfp.images import build
from distillery_kfp.images.build import Engine, builds, main, write_digest
from distillery_kfp.pipelines.metadata import images

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
PINNED = re.compile(r"^([\w.\[\]-]+)==(\S+) \\\n((?:    --hash=sha256:\w{64}(?: \\)?\n)+)", flags=re.MULTILINE)
DIGEST = f"sha256:{'b' * 64}"
# An engine that builds nothing, says what it was asked, and knows its images by one digest.
FAKE = f"""#!/bin/sh
echo "$@" >> "$0.log"
case "$*" in
  *RepoDigests*) echo '["elsewhere.example.org/x@sha256:{"c" * 64}", "registry.example.net:5000/team/tools-python@{DIGEST}"]' ;;
  inspect*) echo "{{id: 'sha256:1', size: 2000000}}" ;;
  push*refused*) exit 4 ;;
esac
"""


def hadolint(path: Path) -> str:
    return subprocess.run([HADOLINT, "--no-color", path], capture_output=True, text=True, check=False).stdout


def test_the_containerfile_is_clean(tmp_path: Path) -> None:
    assert hadolint(ROOT / "images" / "Containerfile") == ""
    (tmp_path / "Containerfile").write_text((ROOT / "images" / "Containerfile").read_text() + "RUN cd here && sudo make\n")
    assert {"DL3003", "DL3004"} <= set(re.findall(r"DL\d+", hadolint(tmp_path / "Containerfile")))


def pins(name: str) -> dict[str, tuple[str, set[str]]]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {package: (version, set(re.findall(r"\w{64}", hashes))) for package, version, hashes in PINNED.findall(text)}


@pytest.mark.parametrize("name", ["runtime", "kfp", "tools", "build"])
def test_an_image_installs_what_the_lock_holds(name: str) -> None:
    """Whoever changes the lock without `make lock` leaves the images behind, and this says so."""
    lock, own = pins("locked"), pins(name)
    if name == "tools":
        client = own.pop("mlflow-skinny")
        assert client == lock["mlflow-skinny"]
    assert own == {package: lock[package] for package in own}
    assert own


def test_each_image_has_what_it_is_for() -> None:
    runtime, tools = pins("runtime"), pins("tools")
    assert {"torch", "torchvision", "mlflow", "boto3", "timm"} <= set(runtime)
    assert {"kfp", "kfp-kubernetes", "mlflow-skinny", "boto3"} <= set(tools)
    heavy = {name for name in tools if re.match("torch|nvidia|triton|cuda|pandas|scipy", name)}
    assert heavy == set()
    assert set(pins("kfp")) == {"kfp"}
    assert "kfp" not in runtime
    assert "protobuf" in tools


def test_every_row_of_the_table_is_built() -> None:
    assert set(builds()) == set(images())
    files = {name for row in builds().values() for name in row.requirements}
    assert all((ROOT / "requirements" / f"{name}.txt").is_file() for name in files)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    program = tmp_path / "engine"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of images.yaml that may be written."""
    copy = tmp_path / "images" / "images.yaml"
    copy.parent.mkdir()
    shutil.copy(build.TABLE, copy)
    monkeypatch.setattr(build, "TABLE", copy)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return copy


def words(engine: Path) -> list[str]:
    return engine.with_name("engine.log").read_text().splitlines()


def test_a_build_says_what_it_is_of_and_writes_no_digest(engine: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table.read_text()
    main(["tools"], registry="registry.example.net:5000/team", base="local/base:1", index="a://b", engine=str(engine), flag=["--squash"])
    (built, _) = words(engine)
    reference = "registry.example.net:5000/team/tools-python:0.1.0"
    for word in ("REQUIREMENTS=tools", f"CODE_VERSION={code_version()}", "BASE=local/base:1", "UV_DEFAULT_INDEX=a://b", "VERSION=0.1.0"):
        assert f"--build-arg {word} " in built
    assert built.endswith(f"--squash --tag {reference} .")
    assert "UV_INDEX" not in built
    assert f"tools: {reference}: 2 MB in" in capsys.readouterr().out
    assert table.read_text() == before


def test_a_push_writes_the_digest_of_its_own_registry(engine: Path, table: Path) -> None:
    before = table.read_text()
    main(["tools"], registry="registry.example.net:5000/team", push=True, engine=str(engine))
    assert table.read_text() == before.replace("tools-python:0.1.0", f"tools-python:0.1.0@{DIGEST}")
    main(["tools"], registry="registry.example.net:5000/team", push=True, engine=str(engine))
    assert yaml.safe_load(table.read_text())["tools"].count("@") == 1
    with pytest.raises(MissingResourceError, match="^'registry.example.net/x:1.0.0' has no digest: only a registry"):
        Engine(str(engine)).digest("registry.example.net/x:1.0.0")


def test_a_push_that_fails_writes_nothing(engine: Path, table: Path) -> None:
    before = table.read_text()
    with pytest.raises(ConfigError, match="^`.*engine push` ended with 4: look"):
        main(["tools"], registry="refused.example.net", push=True, engine=str(engine))
    assert table.read_text() == before


def test_what_the_builder_refuses(engine: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^'gpus' is no row of images.yaml: give gpu, cpu, tools"):
        main(["gpus"], engine=str(engine))
    with pytest.raises(ConfigError, match="nobody's, so nothing can be pushed there: give --registry"):
        main(push=True, engine=str(engine))
    with pytest.raises(MissingResourceError, match="^There is no program '.*nowhere': install a container engine"):
        main(engine=str(tmp_path / "nowhere"))
    assert not engine.with_name("engine.log").exists()
    with pytest.raises(AssertionError, match="no row"):
        write_digest(table, "gp", DIGEST)


def test_the_cpu_row_takes_the_cpu_build_once_its_hashes_were_read(table: Path, engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cpu"], engine=str(engine))
    assert "cpu holds torch's CUDA build" in capsys.readouterr().out
    (table.parents[1] / "requirements").mkdir()
    (table.parents[1] / "requirements" / "runtime-cpu.txt").touch()
    main(["cpu"], engine=str(engine))
    assert "CUDA" not in capsys.readouterr().out
    assert "--build-arg REQUIREMENTS=runtime-cpu kfp " in words(engine)[2]
