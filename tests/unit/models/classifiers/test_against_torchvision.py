"""Our networks against independent ones: torchvision's with the small-image stem, and a plain formula for the wide block."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from distillery.models.catalog import Architecture, build_network
from distillery.models.classifiers.wide_resnet import PreactivatedBlock
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


def _torchvision(name: str) -> nn.Module:
    network = torchvision.models.get_model(name, weights=None, num_classes=10)
    if name.startswith("resnet"):
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.features[0][0].stride = (1, 1)
        network.features[2].conv[1][0].stride = (1, 1)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_same_weights_give_the_same_logits(name: str) -> None:
    ours = build_network(Architecture(name=name), SPEC, 10)
    ours.train()(torch.randn(4, 3, 32, 32))
    theirs = _torchvision(name)
    values = list(ours.state_dict().values())
    assert [value.shape for value in values] == [value.shape for value in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_wide_block_projects_the_activated_input() -> None:
    block = PreactivatedBlock(3, 5, stride=2).double()
    block(torch.randn(8, 3, 6, 6, dtype=torch.float64))
    block.eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)

    def activate(norm: nn.BatchNorm2d, value: torch.Tensor) -> torch.Tensor:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        return ((value - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + norm.eps).sqrt()).clamp(min=0)

    active = activate(block.norm1, x)
    inner = F.conv2d(activate(block.norm2, F.conv2d(active, block.conv1.weight, stride=2, padding=1)), block.conv2.weight, padding=1)
    assert block.projection is not None
    torch.testing.assert_close(block(x), inner + F.conv2d(active, block.projection.weight, stride=2))
