"""Networks whose layers take their sizes from the first images that they see."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.types import ImageSpec


def shape_lazy_parts(network: nn.Module, name: str, spec: ImageSpec) -> None:
    """Show a network two grey images where it has lazy parts, so that these have their sizes before anyone counts, loads or trains them.

    Args:
        network: modes are as before afterwards; one without lazy parts is not run.
        name: of its architecture, for messages.
        spec: of its images.

    Raises:
        ConfigError: it fails on such images, or a forward pass in eval mode leaves a part without sizes.
    """
    if not _lazy(network):
        return
    modes = [(part, part.training) for part in network.modules()]
    what = f"{name} has lazy parts that only images can shape, and fails on those of {'x'.join(map(str, spec.shape))}"
    with guarded(what, "check channels, height and width"), torch.no_grad():
        network.eval()(torch.zeros(2, *spec.shape))
    for part, training in modes:
        part.training = training
    if left := _lazy(network):
        raise ConfigError(f"{name} does not use its lazy part {left[0]!r} in eval mode, so nothing shapes it: give that its sizes.")


def _lazy(network: nn.Module) -> list[str]:
    """Names of parameters and buffers without sizes."""
    return [key for key, value in (*network.named_parameters(), *network.named_buffers()) if is_lazy(value)]
