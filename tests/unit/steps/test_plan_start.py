"""The plan opens the set that a pool begins with, and pins it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.data.manifest import SetHeader
from distillery.data.publishing import publish_manifest
from distillery.data.store import SetWriter
from distillery.errors import ConfigError, MissingResourceError
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.recipes.loader import load_recipe
from distillery.recipes.workload import workload_of
from distillery.steps.plan import run
from distillery.storage import FolderStore
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=1, height=16, width=16, mean=(0.5,), std=(0.25,))
PIXELS = 16 * 16


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A teacher, and a set of seven images of it."""
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    chosen, names = Architecture(name="wrn_10_1", arguments={}), tuple("0123456789")
    made = Provenance(code_version=code_version())
    sha256 = save_classifier(tmp_path / "teacher", Classifier(build_network(chosen, SPEC, 10), SPEC, names), chosen, made)
    store = FolderStore(tmp_path / "start")
    writer = SetWriter(store, SetHeader(shape=SPEC.shape, num_classes=10, teacher_sha256=sha256, provenance=made))
    writer.append(torch.zeros(7, *SPEC.shape, dtype=torch.uint8), None, torch.rand(7, 10))
    return {"teacher": str(tmp_path / "teacher"), "start": store.uri, "digest": publish_manifest(store, writer.manifest()).sha256}


def section(given: dict[str, Any], start: str = "", **overrides: Any) -> dict[str, Any]:
    form = {"teacher_uri": given["teacher"], "synth_start_uri": start, "run_overrides": overrides}
    return run("online_distillation", form)["distill"]


def test_it_is_pinned_and_its_address_stands_nowhere(given: dict[str, Any]) -> None:
    found = section(given, given["start"])
    assert found["start_sha256"] == given["digest"]
    assert given["start"] not in str(found)
    assert section(given)["start_sha256"] == ""


def test_what_does_not_fit_is_one_sentence(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fills the pool, which synthesis.feed: fresh never shows the student: feed the pool"):
        section(given, given["start"], **{"synthesis.feed": "fresh"})
    with pytest.raises(MissingResourceError, match="No synthetic set is published"):
        section(given, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="--start = .* means nothing to generative_distillation"):
        run("generative_distillation", {"teacher_uri": given["teacher"], "synth_start_uri": given["start"]})


def test_its_images_take_room_too(given: dict[str, Any]) -> None:
    bytes_of_run = workload_of(load_recipe("fast_dfkd/digits")).images * PIXELS
    section(given, **{"set.max_bytes": bytes_of_run})
    with pytest.raises(ConfigError, match="The recipe's set keeps"):
        section(given, given["start"], **{"set.max_bytes": bytes_of_run + 7 * PIXELS - 1})
