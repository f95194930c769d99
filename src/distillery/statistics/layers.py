"""Which layers of a classifier have moments: those with running statistics that a forward pass visits, found by one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from distillery.errors import ConfigError
from distillery.grammar import with_article
from distillery.seeding import seeded
from distillery.statistics.modes import eval_mode
from distillery.statistics.taps import tap_inputs
from distillery.types import Classifier


@dataclass(frozen=True)
class Layers:
    """The layers with running statistics that take part in a forward pass in eval mode.

    Attributes:
        visits: their visits by name, see `taps.visit_key`, module by module in definition order; one that is called twice counts twice.
        left_out: path -> why, of those that take part but have no moments that a method could match.
    """

    visits: tuple[str, ...]
    left_out: Mapping[str, str]

    def exceptions(self) -> str:
        """What is left out and why, to stand at the end of a sentence: ` (left out: a, b and 3 more, ...)`; "" where nothing is."""
        by_reason: dict[str, list[str]] = {}
        for path, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(path)
        parts = [f"{', '.join(paths[:3])}{f' and {len(paths) - 3} more' * (len(paths) > 3)}, {why}" for why, paths in by_reason.items()]
        return f" (left out: {'; '.join(parts)})" if parts else ""


def find_layers(classifier: Classifier) -> Layers:
    """Look at one forward pass of two random images; mode, weights and torch's random stream are as before afterwards.

    A module has running statistics where it has buffers `running_mean` and `running_var`, floating, of one length: BatchNorm2d and its
    subclasses, SyncBatchNorm, torchvision's FrozenBatchNorm2d and whatever else keeps them. Modules that do not take part, such as heads
    that run in training only, are no layers of the classifier.

    Args:
        classifier: on any device.

    Raises:
        ConfigError: the network fails on images of its own size, or gives no logits.
    """
    declared = {path: module for path, module in classifier.named_modules() if statistics_of(module)}
    if not declared:
        return Layers((), {})
    try:
        return _look(classifier, declared, gradients=True)
    except ConfigError:  # autograd refuses what it does, say to leave torch on the way: then nothing has a gradient
        return _look(classifier, declared, gradients=False)


def _look(classifier: Classifier, declared: Mapping[str, nn.Module], gradients: bool) -> Layers:
    visits: list[str] = []
    left_out: dict[str, str] = {}
    with seeded(0, "layers"), eval_mode(classifier), _frozen(classifier), torch.enable_grad():
        images = torch.rand(2, *classifier.spec.shape).to(classifier.mean.device).requires_grad_(gradients)
        with tap_inputs(classifier, list(declared)) as taps:
            logits = _answer(classifier, images)
            idle = {path: module for path, module in declared.items() if not taps.visits(path)}
            for path, module in declared.items():
                reasons = [_reason(taps.find(key), module) for key in taps.visits(path)]
                if any(reasons):
                    left_out[path] = next(filter(None, reasons))
                else:
                    visits += taps.visits(path)
        # buffers that a called layer has too are seen there
        shared = {_running_mean(module).data_ptr() for path, module in declared.items() if path not in idle}
        for path, module in idle.items():
            if _running_mean(module).data_ptr() not in shared and _matters(classifier, module, images, logits):
                left_out[path] = "its statistics are used without calling it"
    return Layers(tuple(visits), left_out)


def statistics_of(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The running mean and variance (C,) of a module that has them as buffers, else None.

    Args:
        module: any; what its children have does not count.

    Returns:
        The buffers themselves, no copies.
    """
    buffers = dict(module.named_buffers(recurse=False))
    mean, variance = buffers.get("running_mean"), buffers.get("running_var")
    if mean is None or variance is None or mean.dim() != 1 or mean.shape != variance.shape:
        return None
    return (mean, variance) if mean.is_floating_point() and variance.is_floating_point() else None


def _reason(features: Tensor | None, module: nn.Module) -> str:
    """Why a visit has no moments to match; "" where it has."""
    if isinstance(module, _InstanceNorm):
        return "its variance is that of one image at a time"
    if features is None:
        return "its input is empty, no tensor, or overwritten in place"
    if features.dim() != 4 or features.shape[1:2] != _running_mean(module).shape or not features.is_floating_point():
        return "its input is not (N, C, H, W) with one statistic a channel"
    return "" if features.requires_grad else "no gradient flows from its input to the images"


def _matters(classifier: Classifier, module: nn.Module, images: Tensor, logits: Tensor) -> bool:
    """Whether the logits depend on the statistics of a module that no tap saw: NaN there reaches them, or makes the network fail."""
    mean = _running_mean(module)
    before = mean.clone()
    try:
        mean.fill_(torch.nan)
        # compared with what is NaN anyway: a network may have such answers by itself
        return not torch.equal(_answer(classifier, images).isnan(), logits.isnan())
    except ConfigError:
        return True
    finally:
        mean.copy_(before)


def _running_mean(module: nn.Module) -> Tensor:
    found = statistics_of(module)
    assert found is not None, "asked of modules that have statistics"
    return found[0]


def _answer(classifier: Classifier, images: Tensor) -> Tensor:
    logits = classifier(classifier.arrange(images))
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"The network gives {with_article(type(logits).__name__)} and no logits (N, K): wrap it so that it returns these alone."
        )
    return logits


@contextmanager
def _frozen(classifier: Classifier) -> Iterator[None]:
    """No parameter asks for gradients, so what has one has it from the images."""
    flags = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    classifier.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
