"""Why a teacher does worse on labelled images than where it was trained: common mistakes, each tried on the images."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.evaluation.predict import predict
from distillery.types import Classifier, ImageSpec

_TRIED, _TRIED_IF_LARGE, _LARGE = 256, 64, 96 * 96  # images that each mistake is tried on, and pixels from which fewer are taken
_NAMED = 3  # classes named in a message
_LEAST_GAIN = 0.05
_ERRORS = 3.0  # standard errors of a difference that is no accident
_USUAL = {
    "mean 0 and std 1": (0.0, 1.0),
    "mean 0.5 and std 0.5": (0.5, 0.5),
    "mean 0 and std 0.00392, which is pixels in 0 to 255": (0.0, 1 / 255),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Suspect(NamedTuple):
    """A change of the images, the constants or the names under which a classifier does better.

    Attributes:
        words: what was changed, to follow "with".
        remedy: what to do, to stand at the end of a sentence.
        top1: on the images that it was tried on, in [0, 1].
        images: how many these were.
    """

    words: str
    remedy: str
    top1: float
    images: int

    def told(self) -> str:
        """The finding, from within a sentence to its end."""
        return f"{100 * self.top1:.1f} % of {self.images} of the images are named right with {self.words}: {self.remedy}."


def find_suspect(classifier: Classifier, images: Tensor, labels: Tensor, predicted: Tensor) -> Suspect | None:
    """The mistake whose repair helps most, where one helps by more than accident.

    Args:
        classifier: in eval mode.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        predicted: (N,) int64, the classifier's answers for them.
    """
    commonest = float(labels.bincount().max()) / len(labels)  # who always says the same is no better under another name
    floor = max(float((predicted == labels).float().mean()), commonest)
    tried = min(len(images), _TRIED_IF_LARGE if images[0, 0].numel() >= _LARGE else _TRIED)
    if floor + _accident(tried) > 1:
        return None
    found = [*_reordered(labels, predicted, classifier.class_names)]
    chosen = torch.linspace(0, len(images) - 1, tried).round().long()
    some, wanted = images[chosen], labels[chosen]
    for words, remedy, changed, pixels in _changes(classifier, some):
        try:
            right = predict(changed, pixels).argmax(1) == wanted
        except ConfigError:  # constants that blow the logits up are not the right ones
            continue
        found.append(Suspect(words, remedy, float(right.float().mean()), len(some)))
    better = [suspect for suspect in found if suspect.top1 - floor > _accident(suspect.images)]
    return max(better, key=lambda suspect: suspect.top1, default=None)


def _accident(images: int) -> float:
    """The largest gain on so many images that means nothing."""
    return max(_LEAST_GAIN, _ERRORS * math.sqrt(0.25 / images))


def _changes(classifier: Classifier, images: Tensor) -> Iterator[tuple[str, str, Classifier, Tensor]]:
    """What to try, as (words, remedy, classifier, images)."""
    spec, wrap = classifier.spec, "or name a factory that wraps the network in one which does so to its images"
    if spec.channels > 1:
        yield "the channels in reverse order (RGB for BGR)", f"turn them around, {wrap}", classifier, images.flip(1)
    if spec.height == spec.width:
        yield "height and width swapped (transposed pictures)", f"transpose them, {wrap}", classifier, images.transpose(2, 3)
    yield "light and dark swapped (inverted pictures)", f"invert them, {wrap}", classifier, 255 - images
    for words, mean, std in _constants(spec, images):
        other = spec.model_copy(update={"mean": mean, "std": std})
        changed = Classifier(classifier.network, other, classifier.class_names, classifier.memory_format, classifier.task)
        remedy = "look up what its training code gave to Normalize"
        yield words, remedy, changed.to(classifier.mean.device).train(classifier.training), images


def _constants(spec: ImageSpec, images: Tensor) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """Usual constants, and those of the images themselves."""
    pixels = images.transpose(0, 1).flatten(1).double() / 255
    mean, std = pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-3).tolist()
    yield f"mean {_listed(mean)} and std {_listed(std)}, which these images have", tuple(mean), tuple(std)
    if spec.channels == len(_IMAGENET[0]):
        yield f"mean {_listed(_IMAGENET[0])} and std {_listed(_IMAGENET[1])}, which are ImageNet's", *_IMAGENET
    for words, (centre, scale) in _USUAL.items():
        yield words, (centre,) * spec.channels, (scale,) * spec.channels


def _reordered(labels: Tensor, predicted: Tensor, names: Sequence[str]) -> Iterator[Suspect]:
    """Class names in another order: which one is read off every second image and scored on the others."""
    wanted, answers = labels.tolist(), predicted.tolist()
    pairs, counts = torch.unique(torch.stack([labels[::2], predicted[::2]], 1), dim=0, return_counts=True)
    order: dict[int, int] = {}
    taken: set[int] = set()
    for label, answer in pairs[counts.argsort(descending=True, stable=True)].tolist():
        if label not in order and answer not in taken:
            order[label] = answer
            taken.add(answer)
    others = list(zip(wanted[1::2], answers[1::2], strict=True))
    if not others:
        return
    top1 = sum(order.get(label) == answer for label, answer in others) / len(others)
    moved = [f"{names[label]!r} answered as {names[answer]!r}" for label, answer in sorted(order.items()) if label != answer]
    more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    if moved:
        yield Suspect(
            f"the classes in another order ({', '.join(moved[:_NAMED])}{more})", "name them as its training code did", top1, len(others)
        )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
