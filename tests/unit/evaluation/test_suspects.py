"""A teacher that was imported wrongly: which mistake it was is found on labelled images, and nothing is found where none was made."""

import pytest
import torch
from torch import Tensor, nn

from distillery.evaluation.suspects import find_suspect
from distillery.types import Classifier, ImageSpec

NAMES = ("a", "b", "c")


class Rule(nn.Module):
    """Three classes by a rule with several kinds of images in one class, which no other order of names explains."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        score = {
            "colour": lambda: x[:, 0].mean((1, 2)) - x[:, 1:].mean((1, 2, 3)),
            "stripes": lambda: x.mean((1, 3)).var(1) - x.mean((1, 2)).var(1),
            "light": lambda: x.mean((1, 2, 3)),
        }[self.rule]()
        steps = {"colour": (0.0, 0.15), "stripes": (0.001, 0.008), "light": (-0.5, 0.5)}[self.rule]
        return nn.functional.one_hot(torch.bucketize(score, torch.tensor(steps)), 3).float()


def classifier(rule: str, mean: float = 0.0, std: float = 1.0) -> Classifier:
    spec = ImageSpec(channels=3, height=8, width=8, mean=(mean,) * 3, std=(std,) * 3)
    return Classifier(Rule(rule), spec, NAMES).eval()


def pictures(n: int = 300) -> Tensor:
    """Stripes in either direction, of any colour and lightness."""
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 8, 8, generator=draws) * 0.1 + torch.rand(n, 3, 1, 1, generator=draws) * 0.6
    for index in range(n):
        if index % 3 == 1:
            images[index, :, ::2] += 0.1 * (1 + index % 4)
        elif index % 3 == 2:
            images[index, :, :, ::2] += 0.1 * (1 + index % 4)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def says(model: Classifier, images: Tensor) -> Tensor:
    return model(images.float() / 255).argmax(1)


def suspect(model: Classifier, images: Tensor, labels: Tensor) -> str:
    found = find_suspect(model, images, labels, says(model, images))
    return found.told() if found else ""


@pytest.mark.parametrize(
    ("rule", "spoil", "words"),
    [
        ("colour", lambda images: images.flip(1), "channels in reverse order (RGB for BGR): turn them around"),
        ("stripes", lambda images: images.transpose(2, 3), "height and width swapped (transposed pictures): transpose them"),
        ("light", lambda images: 255 - images, "light and dark swapped (inverted pictures): invert them"),
    ],
)
def test_pictures_of_another_kind_are_named(rule: str, spoil: object, words: str) -> None:
    images = pictures()
    model = classifier(rule, *((0.45, 0.2) if rule == "light" else ()))
    labels = says(model, images)
    assert labels.bincount(minlength=3).min() > 20
    told = suspect(model, spoil(images).contiguous(), labels)  # type: ignore[operator]
    assert told.startswith("100.0 % of 256 of the images are named right with ")
    assert words in told
    assert suspect(model, images, labels) == ""


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1 / 255), (0.9, 0.1), (0.0, 20.0)])
def test_wrong_constants_are_named(mean: float, std: float) -> None:
    images = pictures()
    labels = says(classifier("light", 0.45, 0.2), images)
    told = suspect(classifier("light", mean, std), images, labels)
    assert ": look up what its training code gave to Normalize" in told
    assert float(told.split(" %")[0]) > 80


def test_another_order_of_the_names_is_named_with_the_names() -> None:
    images = pictures()
    model = classifier("light", 0.45, 0.2)
    labels = torch.tensor([1, 2, 0])[says(model, images)]
    assert suspect(model, images, labels) == (
        "100.0 % of 150 of the images are named right with the classes in another order "
        "('a' answered as 'c', 'b' answered as 'a', 'c' answered as 'b'): name them as its training code did."
    )


def test_many_classes_and_few_images_accuse_nobody() -> None:
    """A permutation of 100 names explains a third of 40 random answers; on images that it was not read off it explains none."""
    spec = ImageSpec(channels=3, height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 100)), spec, tuple(map(str, range(100)))).eval()
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    assert suspect(model, images, torch.randint(100, (40,))) == ""
    assert suspect(model, images[:1], torch.tensor([3])) == ""
