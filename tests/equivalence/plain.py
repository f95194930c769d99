"""The plainest possible pieces that the slow reference loops are built from; nothing here is imported from the library's losses."""

import torch
from torch import Tensor, nn

from distillery.statistics.moments import Moments
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=2, height=8, width=8, mean=(0.4, 0.5), std=(0.3, 0.2))


def tiny_classifier(width: int, seed: int) -> Classifier:
    """Two convolutions with BatchNorm whose running statistics are not the defaults, in the default dtype."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )
    classifier = Classifier(network, SPEC, ("a", "b", "c")).train()
    with torch.no_grad():
        for _ in range(5):
            classifier(torch.rand(16, 2, 8, 8))
    return classifier.eval()


def norms_of(classifier: Classifier) -> dict[str, nn.BatchNorm2d]:
    return {path: module for path, module in classifier.named_modules() if isinstance(module, nn.BatchNorm2d)}


def moments_of(classifier: Classifier) -> Moments:
    norms = norms_of(classifier)
    mean = {path: norm.running_mean.clone() for path, norm in norms.items()}  # type: ignore[union-attr]
    variance = {path: norm.running_var.clone() for path, norm in norms.items()}  # type: ignore[union-attr]
    return Moments("global", mean, variance, teacher_sha256="0" * 64)


class PlainAdam:
    """Adam as its paper writes it, one tensor at a time."""

    def __init__(self, rates: list[float], betas: tuple[float, float] = (0.5, 0.999)) -> None:
        self.rates, self.betas, self.count = rates, betas, 0
        self.first: list[Tensor] = []
        self.second: list[Tensor] = []

    def step(self, values: list[Tensor], gradients: list[Tensor]) -> None:
        self.first = self.first or [torch.zeros_like(value) for value in values]
        self.second = self.second or [torch.zeros_like(value) for value in values]
        self.count += 1
        b1, b2 = self.betas
        with torch.no_grad():
            for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
                self.first[i] = b1 * self.first[i] + (1 - b1) * gradient
                self.second[i] = b2 * self.second[i] + (1 - b2) * gradient**2
                corrected = self.first[i] / (1 - b1**self.count)
                scale = (self.second[i] / (1 - b2**self.count)).sqrt() + 1e-8
                value -= self.rates[i] * corrected / scale


def watched_forward(teacher: Classifier, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits, and mean and biased variance of each BatchNorm's input, computed channel by channel."""
    inputs: list[Tensor] = []
    hooks = [norm.register_forward_hook(lambda _m, args, _o: inputs.append(args[0])) for norm in norms_of(teacher).values()]
    logits = teacher(images)
    for hook in hooks:
        hook.remove()
    statistics = []
    for values in inputs:
        channels = [values[:, c].reshape(-1) for c in range(values.shape[1])]
        means = torch.stack([channel.sum() / len(channel) for channel in channels])
        variances = torch.stack([((channel - channel.sum() / len(channel)) ** 2).sum() / len(channel) for channel in channels])
        statistics.append((means, variances))
    return logits, statistics


def l2(values: Tensor) -> Tensor:
    return (values * values).sum().sqrt()


def matching(teacher: Classifier, statistics: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros(())
    for norm, (mean, variance) in zip(norms_of(teacher).values(), statistics, strict=True):
        total = total + l2(mean - norm.running_mean) + l2(variance - norm.running_var)
    return total


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = [-(row[int(label)] - row.exp().sum().log()) for row, label in zip(logits, labels, strict=True)]
    return torch.stack(rows).sum() / len(rows)


def masked_disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        if int(s.argmax()) == int(t.argmax()):
            p, q = t.exp() / t.exp().sum(), s.exp() / s.exp().sum()
            total = total - (p * (p / q).log()).sum()
    return total / len(student)


def shifted(images: Tensor, down: Tensor, right: Tensor, mirror: Tensor, reach: int) -> Tensor:
    """Pad, slice and mirror one image after the other."""
    height, width = images.shape[2:]
    views = []
    for image, dy, dx, flip in zip(images, down.tolist(), right.tolist(), mirror.tolist(), strict=True):
        padded = nn.functional.pad(image, [reach] * 4)
        source = padded.flip(-1) if flip else padded
        views.append((source, dy, dx, flip))
    result = []
    for padded, dy, dx, flip in views:
        left = reach - dx if flip else reach + dx
        result.append(padded[:, reach + dy : reach + dy + height, left : left + width])
    return torch.stack(result)
