"""Penultimate features of any classifier, found without knowing it."""

import pytest
import torch
from torch import Tensor, nn

from distillery.evaluation.features import LOGITS, penultimate
from distillery.models.catalog import Architecture, build_network
from distillery.types import Classifier, ImageSpec
from fakes import taps_left

SPEC = ImageSpec(channels=1, height=32, width=32, mean=(0.3,), std=(0.3,))
IMAGES = torch.randint(0, 256, (7, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, SPEC, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "lenet5", "vgg8_bn", "mobilenet_v2"])
def test_the_last_layer_makes_the_logits_of_the_features(name: str) -> None:
    model = classifier(build_network(Architecture(name=name), SPEC, 3)).eval()
    values, source = penultimate(model, IMAGES, batch=3)
    layer = model.get_submodule(source)
    with torch.no_grad():
        assert torch.allclose(layer(values), model(IMAGES.float() / 255), atol=1e-5)
    assert values.shape == (7, layer.in_features)


class Auxiliary(nn.Module):
    """Has linear layers after and beside the one that decides."""

    def __init__(self, used: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(1024, 5)
        self.head = nn.Linear(5, 3)
        self.projection = nn.Linear(5, 8)
        self.used = used

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images.flatten(1)).relu()
        return self.head(features) if self.used else features[:, :3] * 2


def test_layers_that_do_not_decide_are_passed_over() -> None:
    values, source = penultimate(classifier(Auxiliary()), IMAGES)
    assert source == "network.head"
    assert values.shape == (7, 5)


class Tokens(nn.Module):
    """Decides for every pixel, then averages: no vector an image goes into its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images[:, 0]).mean(1)


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.Conv2d(1, 3, 32), nn.Flatten()), Auxiliary(used=False), Tokens()], ids=["none", "unused", "tokens"]
)
def test_without_such_a_layer_the_logits_are_compared(network: nn.Module) -> None:
    model = classifier(network)
    values, source = penultimate(model, IMAGES)
    with torch.no_grad():
        assert torch.allclose(values, model(IMAGES.float() / 255), atol=1e-6)
    assert source == LOGITS


def test_the_classifier_is_left_as_it_was() -> None:
    model = classifier(build_network(Architecture(name="resnet8"), SPEC, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    penultimate(model, IMAGES)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert taps_left(model) == 0
