"""Versions of modules travel with their weights: through an import, a bundle and a run's snapshots."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import Architecture
from distillery.models.foreign import import_checkpoint
from distillery.models.versions import Weights
from distillery.provenance import Provenance
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=1, height=2, width=2, mean=(0.0,), std=(1.0,))


class Doubled(nn.Linear):
    """Halved its weights in version 1; version 2 reads those by doubling them."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, versions: Mapping[str, Any], *rest: Any) -> None:
        if versions.get("version", 1) < 2:
            state[f"{prefix}weight"] = 2 * state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, versions, *rest)


def network() -> nn.Module:
    """Named by an architecture below."""
    return nn.Sequential(nn.Flatten(), nn.Sequential(Doubled(4, 2)))


HERE = Architecture(name="versioned_net:network")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("versioned_net")
    module.network = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "versioned_net", module)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "versioned_net:network")


def wrapped(how: str, whole: nn.Module) -> Any:
    if how == "data_parallel":
        return nn.DataParallel(whole).state_dict()
    if how == "averaged":
        return torch.optim.swa_utils.AveragedModel(whole).state_dict()
    if how == "compiled":
        return torch.compile(whole).state_dict()  # wraps without compiling
    return {"state_dict": whole.state_dict()} if how == "enveloped" else whole.state_dict()


@pytest.mark.parametrize("how", ["plain", "enveloped", "data_parallel", "averaged", "compiled"])
def test_a_checkpoint_of_the_present_version_is_not_converted_again(tmp_path: Path, how: str) -> None:
    whole = network()
    torch.save(wrapped(how, whole), tmp_path / "weights.pt")
    found = import_checkpoint(tmp_path / "weights.pt", HERE, SPEC, ("a", "b"))
    assert torch.equal(found.network[1][0].weight, whole[1][0].weight)  # type: ignore[index]


def test_a_checkpoint_of_an_old_version_is_converted(tmp_path: Path) -> None:
    whole = network()
    state = whole.state_dict()
    state._metadata["1.0"] = {"version": 1}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "weights.pt")
    found = import_checkpoint(tmp_path / "weights.pt", HERE, SPEC, ("a", "b"))
    assert torch.equal(found.network[1][0].weight, 2 * whole[1][0].weight)  # type: ignore[index]


def test_a_bundle_is_of_the_version_that_wrote_it(tmp_path: Path) -> None:
    whole = network()
    save_classifier(tmp_path / "b", Classifier(whole, SPEC, ("a", "b")), HERE, Provenance(inputs={}, code_version="test"))
    assert torch.equal(load_classifier(tmp_path / "b").network[1][0].weight, whole[1][0].weight)  # type: ignore[index]


@pytest.mark.parametrize("versions", [None, "2", ["1.0"], {"1.0": 2}, {1: {"version": 2}}])
def test_what_is_no_table_of_versions_counts_as_none(versions: object) -> None:
    assert Weights(network().state_dict(), versions)._metadata == {}


def test_names_and_versions_are_renamed_alike() -> None:
    weights = Weights({"module.a.weight": torch.zeros(1)}, {"": {}, "module": {"version": 1}, "module.a": {"version": 3}})
    found = weights.renamed(lambda name: name.removeprefix("module."))
    assert list(found) == ["a.weight"]
    assert found._metadata == {"": {"version": 1}, "a": {"version": 3}}


def test_what_is_lacking_is_filled_in() -> None:
    given: dict[str, Tensor] = {"a": torch.zeros(1), "b": torch.ones(1)}
    found = Weights({"a": torch.ones(1)}, {"": {"version": 2}}).completed(given)
    assert {name: value.item() for name, value in found.items()} == {"a": 1, "b": 1}
    assert found._metadata == {"": {"version": 2}}
