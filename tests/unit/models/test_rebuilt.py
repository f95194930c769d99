"""A network that is more than its state dict would be another one in every step, and is refused before."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.models.catalog import Architecture
from distillery.models.foreign import import_checkpoint
from distillery.models.trial import try_architecture
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("a", "b", "c")
HERE = Architecture(name="rebuilt_nets:build")


class Net(nn.Module):
    def __init__(self, change: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(256, 3)
        self.change = [change(self)]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.change[0](self.stem(images)).flatten(1))


def projection(persistent: bool) -> Callable[[nn.Module], Callable[[Tensor], Tensor]]:
    def change(net: nn.Module) -> Callable[[Tensor], Tensor]:
        net.register_buffer("project", torch.randn(4, 1, 1), persistent=persistent)
        return lambda value: value * net.project

    return change


def unseeded(net: nn.Module) -> Callable[[Tensor], Tensor]:
    width = random.random()  # as some build a random wiring
    return lambda value: value * width


MORE = {"a plain list": lambda net: nn.Conv2d(4, 4, 1), "a buffer": projection(persistent=False), "random wiring": unseeded}
NO_MORE = {"nothing": lambda net: torch.relu, "a persistent buffer": projection(persistent=True)}


def give(monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
    module = ModuleType("rebuilt_nets")
    module.build = lambda: Net(change)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rebuilt_nets", module)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "rebuilt_nets:build")


@pytest.mark.parametrize("what", MORE)
def test_state_outside_the_state_dict_is_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, MORE[what])
    torch.save(Net(MORE[what]).state_dict(), tmp_path / "weights.pt")
    words = r"^rebuilt_nets:build gives other logits when it is built again with the same weights, .*[.]$"
    with pytest.raises(ConfigError, match=words):
        import_checkpoint(tmp_path / "weights.pt", HERE, SPEC, NAMES)
    with pytest.raises(ConfigError, match=words):
        try_architecture(HERE, SPEC, 3)


@pytest.mark.parametrize("what", NO_MORE)
def test_what_the_state_dict_holds_passes(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, NO_MORE[what])
    torch.save(Net(NO_MORE[what]).state_dict(), tmp_path / "weights.pt")
    import_checkpoint(tmp_path / "weights.pt", HERE, SPEC, NAMES)
    try_architecture(HERE, SPEC, 3)


def test_a_network_of_random_sizes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = iter([4, 5, 6])
    give(monkeypatch, lambda net: nn.Identity())
    sys.modules["rebuilt_nets"].build = lambda: nn.Sequential(nn.Conv2d(3, (width := next(widths)), 8), nn.Flatten(), nn.Linear(width, 3))  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match=r"^rebuilt_nets:build does not take its own weights when it is built again \(RuntimeError: .*[.]$"
    ):
        try_architecture(HERE, SPEC, 3)
