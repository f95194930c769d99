"""Stages found in networks that name none."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillery.models.catalog import Architecture, build_network
from distillery.models.stages import stage_outputs
from distillery.statistics.taps import tap_outputs
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=64, width=64, mean=(0.5,) * 3, std=(0.5,) * 3)
CLASSES = tuple("abcd")


def built(name: str, **arguments: Any) -> Classifier:
    with torch.device("meta"):
        return Classifier(build_network(Architecture(name=name, arguments=arguments), SPEC, 4), SPEC, CLASSES).freeze()


def sizes(classifier: Classifier) -> list[tuple[int, int]]:
    """Channels and height of every end, read by taps as an objective reads them."""
    ends = stage_outputs(classifier)
    with tap_outputs(classifier, list(ends)) as taps:
        classifier(torch.empty(2, *SPEC.shape, device=classifier.mean.device))
        return [(taps[end].shape[1], taps[end].shape[2]) for end in ends]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision:resnet18", [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("torchvision:vgg11_bn", [(64, 64), (128, 32), (256, 16), (512, 8), (512, 4), (512, 2)]),
        ("torchvision:mobilenet_v2", [(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)]),
        ("torchvision:densenet121", [(64, 32), (256, 16), (512, 8), (1024, 4), (1024, 2)]),
        ("torchvision:convnext_tiny", [(96, 16), (192, 8), (384, 4), (768, 2)]),
        ("timm:resnet18", [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("timm:efficientnet_b0", [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
    ],
)
def test_a_stage_ends_where_maps_get_smaller(name: str, expected: list[tuple[int, int]]) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    assert sizes(built(name)) == expected


def test_those_that_a_network_names_are_taken_and_tokens_are_none() -> None:
    pytest.importorskip("timm")
    assert stage_outputs(built("timm:resnet18"))[1] == "network.layer1"
    tokens = built("timm:vit_tiny_patch16_224", img_size=64)
    assert stage_outputs(tokens) == ("network.patch_embed.proj",)
    tokens.network.stage_outputs = ("blocks.3",)
    assert stage_outputs(tokens) == ("network.blocks.3",)


class OnePool(nn.Module):
    """One module that halves, visited again and again; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.MaxPool2d(2)
        self.rest, self.head = (
            nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
            nn.Linear(8, 4),
        )
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        x = self.pool(self.two(self.pool(self.one(x))).relu())
        return self.head(self.rest(x).mean((2, 3)))


def test_visits_count_parts_are_looked_into_and_the_network_stays_as_it_was() -> None:
    network = OnePool()
    state = torch.get_rng_state()
    assert stage_outputs(Classifier(network, SPEC, CLASSES)) == (
        "network.one",
        "network.two",
        "network.pool..2",
        "network.rest.0",
        "network.rest.2",
    )
    assert network.passes == 0
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_maps_has_no_stages() -> None:
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)), SPEC, CLASSES)
    assert stage_outputs(flat) == ()
