"""`.ci/imports` takes the files that git knows, whatever else lies in the folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRINTS_SOURCES = '#!/usr/bin/env bash\nfor last; do :; done\nmkdir -p "${@: -2:1}"\ncd "$last" && find . -type f | sort > "$SEEN"\n'


@pytest.mark.parametrize("linked", [".venv", ".venv-uv", "build", ".demo", "compiled", "data"])
def test_a_link_to_a_folder_is_no_source(linked: str, tmp_path: Path) -> None:
    """Links that git ignores by name, and one that it does not."""
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    (elsewhere / "bin").mkdir(parents=True)
    (tree / "src").mkdir(parents=True)
    shutil.copytree(ROOT / ".ci", tree / ".ci", symlinks=True)
    shutil.copy(ROOT / ".gitignore", tree)
    (tree / "src" / "a module.py").write_text("")
    for path, text in ((elsewhere / "bin" / "python", "#!/bin/sh\n"), (tmp_path / "uv", PRINTS_SOURCES)):
        path.write_text(text)
        path.chmod(0o755)
    (tree / ".venv").symlink_to(elsewhere)
    if linked != ".venv":
        (tree / linked).symlink_to(elsewhere)
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    variables = {**os.environ, "UV": str(tmp_path / "uv"), "SEEN": str(tmp_path / "seen")}
    subprocess.run([tree / ".ci" / "imports"], check=True, env=variables, capture_output=True)
    seen = (tmp_path / "seen").read_text().splitlines()
    scripts = sorted(f"./.ci/{path.name}" for path in (tree / ".ci").iterdir() if path.is_file())
    assert seen == [*scripts, "./.gitignore", "./README.md", "./src/a module.py"]
    listed = subprocess.run(["git", "status", "--porcelain", "--", ".venv*", "build"], cwd=tree, check=True, capture_output=True)
    assert listed.stdout == b""
