"""A network that looks at the whole batch is found, and the module that does so is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import ConfigError
from distillery.models.trial import confirm, settle
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)


class Net(nn.Module):
    def __init__(self, norm: nn.Module, mix: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.ModuleList([nn.Conv2d(4, 4, 3), norm])
        self.head = nn.Linear(4, 3)
        self.mix = mix

    def forward(self, images: Tensor) -> Tensor:
        value = self.stem(images)
        for part in self.block:
            value = part(value)
        return self.head(self.mix(value.relu().mean((2, 3))))


class Softmax(nn.Module):
    """Over the batch, by mistake."""

    def forward(self, value: Tensor) -> Tensor:
        return value.softmax(0)


class Training(nn.BatchNorm2d):
    """Stays in train mode, as some fine-tuning scripts leave it."""

    def train(self, mode: bool = True) -> "Training":
        super().train(True)
        return self


MIXING = {
    "training": (Net(Training(4)), "the layer 'block.1', a Training, mixes them"),
    "BatchNorm2d": (Net(nn.BatchNorm2d(4, track_running_stats=False)), "the layer 'block.1', a BatchNorm2d without running statistics,"),
    "inside": (Net(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False))), "the layer 'block.1.1', a BatchNorm2d without"),
    "no affine": (Net(nn.BatchNorm2d(4, affine=False, track_running_stats=False)), "without running statistics"),
    "softmax": (Net(Softmax()), "the layer 'block.1', a Softmax, mixes them"),
    "own code": (Net(nn.Identity(), lambda value: value - value.mean(0)), "(its forward mixes them)"),
    "functional": (Net(nn.Identity(), lambda value: functional.normalize(value, dim=0)), "(its forward mixes them)"),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_images_is_refused_by_name(name: str) -> None:
    network, words = MIXING[name]
    with pytest.raises(ConfigError, match=r"^mine:net answers otherwise for an image with other images beside it .*[.]$") as caught:
        settle(Classifier(network, SPEC, ("a", "b", "c")), "mine:net")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Identity()]
)
def test_a_network_that_looks_at_each_image_alone_passes(norm: nn.Module) -> None:
    settle(Classifier(Net(norm), SPEC, ("a", "b", "c")), "mine:net")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_precision_passes(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(nn.BatchNorm2d(4)).to(dtype)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.to(dtype)).float()

    settle(Classifier(Cast(), SPEC, ("a", "b", "c")), "mine:net")


def test_a_bundle_from_before_is_refused_in_the_plan() -> None:
    with pytest.raises(ConfigError, match="mine:net answers otherwise for an image with other images beside it"):
        confirm(Classifier(MIXING["BatchNorm2d"][0], SPEC, ("a", "b", "c")), "mine:net")


def test_a_student_that_mixes_images_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="mine:net answers otherwise for an image with other images beside it"):
        settle(Classifier(MIXING["BatchNorm2d"][0], SPEC, ("a", "b", "c")), "mine:net", train=True)
