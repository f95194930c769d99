"""Whether a network looks at each image alone, and which of its modules does not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from distillery.errors import ConfigError
from distillery.grammar import with_article
from distillery.types import Classifier

_CLOSE = 1e-3  # of the largest value; another order of summation stays far below
_CLOSE_IN_HALF = 3e-2


def check_neighbours(classifier: Classifier, name: str, images: Tensor, alone: Tensor, among: Tensor) -> None:
    """Refuse a network whose answer for an image depends on what else is in the batch.

    Args:
        classifier: in eval mode.
        name: of its architecture, for the message.
        images: (N, C, H, W) in [0, 1], as unlike each other as can be.
        alone: logits (1, K) of the first image.
        among: logits (N, K) of all images in one batch.

    Raises:
        ConfigError: naming the module that mixes images, where one does.
    """
    close = _tolerance(classifier)
    if is_close(alone, among[:1], close):
        return
    raise ConfigError(
        f"{name} answers otherwise for an image with other images beside it in the batch ({_culprit(classifier, images, close)}): "
        "import a network that looks at each image alone in eval mode, such as one whose BatchNorm keeps running statistics."
    )


@torch.no_grad()
def _culprit(classifier: Classifier, images: Tensor, close: float) -> str:
    """The innermost module that gets the same for the first image and gives something else, in words."""
    modules = dict(classifier.network.named_modules())
    single, several = _flow(classifier, modules, images[:1]), _flow(classifier, modules, images)
    for (path, before, after), (_, before_among, after_among) in zip(single, several, strict=False):
        if is_close(before, before_among, close) and not is_close(after, after_among, close):
            module = modules[path]
            bare = isinstance(module, _NormBase) and module.running_mean is None
            layer = (
                f"the layer {path!r}, {with_article(type(module).__name__)}{' without running statistics' if bare else ''},"
                if path
                else "its forward"
            )
            return f"{layer} mixes them"
    return "no single layer of it mixes them"


def _flow(classifier: Classifier, modules: dict[str, nn.Module], images: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Path, input and output of every module for the first image, in the order in which they finish."""
    found: list[tuple[str, Tensor, Tensor]] = []

    def note(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and len(inputs[0]) == len(output) == len(images):
            found.append((path, inputs[0][:1].clone(), output[:1].clone()))

    handles = [
        module.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output)) for path, module in modules.items()
    ]
    try:
        classifier(classifier.arrange(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


def is_close(one: Tensor, other: Tensor, close: float) -> bool:
    """Whether two tensors have one shape and differ nowhere by more than a share `close` of the first's largest value."""
    one, other = one.double().cpu(), other.double().cpu()
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=close * float(one.abs().max()))


def _tolerance(classifier: Classifier) -> float:
    """Kernels differ with the batch size, and those of half precision round more."""
    halves = (torch.float16, torch.bfloat16)
    return _CLOSE_IN_HALF if any(parameter.dtype in halves for parameter in classifier.parameters()) else _CLOSE
