"""Helm's own command line: it lints and renders the chart as the library does. It is no Python package, so it may be missing."""

from pathlib import Path

import pytest
import yaml

from charting import RELEASE, VARIANTS, helm_program, render, run_helm, values
from integration_rules import skip_or_fail

pytestmark = pytest.mark.integration


@pytest.fixture
def helm() -> str:
    """The program, where it is."""
    program = helm_program()
    if program is None:
        skip_or_fail("the chart needs Helm's command line: .ci/helm brings it.")
    assert program is not None
    return program


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_and_template_agree_with_the_library(helm: str, variant: str, tmp_path: Path) -> None:
    given = values(VARIANTS[variant])
    done = run_helm(helm, "template", RELEASE, given=given, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert sorted(map(str, rendered)) == sorted(map(str, render(given)))


def test_lint_is_strict_and_finds_nothing(helm: str, tmp_path: Path) -> None:
    done = run_helm(helm, "lint", "--strict", given=values(VARIANTS["mlflow"]), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "[ERROR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


def test_a_refusal_reaches_the_user(helm: str, tmp_path: Path) -> None:
    done = run_helm(helm, "template", RELEASE, given=values({"settings": {"values": None}}), folder=tmp_path)
    assert done.returncode != 0
    assert "settings.values.store is missing" in done.stderr
    done = run_helm(helm, "template", RELEASE, given=values({"runer": {}}), folder=tmp_path)
    assert done.returncode != 0
    assert "runer" in done.stderr
