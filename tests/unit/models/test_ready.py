"""Layers without sizes get them where a network is built, so that it can be counted, loaded, stored and trained; its mode must change."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.models.bundle import load_classifier, read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.models.foreign import import_checkpoint
from distillery.provenance import Provenance
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("a", "b", "c")


class Lazy(nn.Module):
    """Knows how many channels it gives, not how many it gets."""

    def __init__(self, unused: bool = False, small: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.LazyConv2d(4, 9 if small else 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten())
        self.head = nn.LazyLinear(3)
        self.extra = nn.LazyLinear(3) if unused else None

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return self.head(features) + self.extra(features) if self.training and self.extra else self.head(features)


HERE = Architecture(name="test_lazy_nets:Lazy")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("test_lazy_nets")
    module.Lazy = Lazy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_lazy_nets", module)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "test_lazy_nets:Lazy")


def test_a_lazy_network_is_built_with_its_sizes() -> None:
    network = build_network(HERE, SPEC, 3)
    assert network.training
    assert network.features[1].training  # type: ignore[index]
    assert {key: tuple(value.shape) for key, value in network.named_parameters()} == {
        "features.0.weight": (4, 3, 3, 3),
        "features.0.bias": (4,),
        "features.1.weight": (4,),
        "features.1.bias": (4,),
        "head.weight": (3, 144),
        "head.bias": (3,),
    }
    assert network.features[1].running_mean.tolist() == [0, 0, 0, 0]  # type: ignore[index]


def test_a_lazy_network_is_imported_and_stored(tmp_path: Path) -> None:
    trained = build_network(HERE, SPEC, 3)
    images = torch.rand(4, 3, 8, 8)
    trained(images)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    imported = import_checkpoint(tmp_path / "weights.pt", HERE, SPEC, NAMES)
    save_classifier(tmp_path / "b", imported, HERE, Provenance(code_version="test"))
    assert read_bundle(tmp_path / "b")[0].parameters == sum(value.numel() for value in trained.parameters())
    with torch.no_grad():
        torch.testing.assert_close(load_classifier(tmp_path / "b").eval()(images), trained.eval()((images - 0.5) / 0.25))


def test_a_lazy_network_that_cannot_run_is_one_sentence() -> None:
    words = r"^test_lazy_nets:Lazy has lazy parts that only images can shape, and fails on those of 3x8x8 \(RuntimeError: .* width[.]$"
    with pytest.raises(ConfigError, match=words):
        build_network(Architecture(name="test_lazy_nets:Lazy", arguments={"small": True}), SPEC, 3)


def test_a_part_that_no_pass_shapes_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^test_lazy_nets:Lazy does not use its lazy part 'extra.weight' in eval mode, .*[.]$"):
        build_network(Architecture(name="test_lazy_nets:Lazy", arguments={"unused": True}), SPEC, 3)


def test_a_network_whose_mode_cannot_change_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def exported() -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
        made: nn.Module = torch.export.export(network, (torch.zeros(2, 3, 8, 8),)).module()
        return made

    monkeypatch.setattr(sys.modules["test_lazy_nets"], "Lazy", exported)
    with pytest.raises(ConfigError, match=r"^test_lazy_nets:Lazy cannot change between train and eval mode \(NotImplementedError: .*[.]$"):
        build_network(HERE, SPEC, 3)


def test_modes_of_parts_stay_as_the_factory_left_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_frozen() -> nn.Module:
        network = Lazy()
        network.features.eval()
        return network

    monkeypatch.setattr(sys.modules["test_lazy_nets"], "Lazy", half_frozen)
    network = build_network(HERE, SPEC, 3)
    assert (network.training, network.features.training, network.head.training) == (True, False, True)
