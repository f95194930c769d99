"""The classifier owns its normalisation, and freezing it is complete."""

import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=2, height=3, width=3, mean=(0.2, 0.6), std=(0.5, 0.25))


class Remember(nn.Module):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.seen = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return self.norm(images).mean((2, 3))


def test_pixels_are_normalised_channel_by_channel() -> None:
    network = Remember()
    images = torch.rand(4, 2, 3, 3)
    Classifier(network, SPEC, ("a", "b"))(images)
    torch.testing.assert_close(network.seen[:, 0], (images[:, 0] - 0.2) / 0.5)
    torch.testing.assert_close(network.seen[:, 1], (images[:, 1] - 0.6) / 0.25)


def test_freezing_stops_gradients_and_statistics() -> None:
    classifier = Classifier(Remember(), SPEC, ("a", "b")).train()
    assert classifier.freeze() is classifier
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier(torch.rand(4, 2, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_normalisation_is_no_weight() -> None:
    assert not {"mean", "std"} & set(Classifier(Remember(), SPEC, ("a", "b")).state_dict())


def test_one_class_is_no_classifier() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes"):
        Classifier(Remember(), SPEC, ("a",))


@pytest.mark.parametrize("changes", [{"mean": (0.1,)}, {"std": (0.1, 0.0)}, {"height": 0}])
def test_an_impossible_spec_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ImageSpec.parse({**SPEC.to_json(), **changes})
