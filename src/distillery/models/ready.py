"""What a network of the user's own must allow before anything is done with it: sizes for every part, and a mode that can be changed."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.types import ImageSpec


def make_ready(network: nn.Module, name: str, spec: ImageSpec) -> None:
    """Give lazy parts their sizes, by showing the network two grey images; and see that it takes both modes.

    Args:
        network: modes are as before afterwards; one without lazy parts is not run.
        name: of its architecture, for messages.
        spec: of its images.

    Raises:
        ConfigError: its mode cannot be changed, as with what torch.export gave; it has lazy parts and fails on such images; or a forward
            pass in eval mode leaves a part without sizes.
    """
    modes = [(part, part.training) for part in network.modules()]
    with guarded(f"{name} cannot change between train and eval mode", "give the network as a class builds it, not what an export made"):
        network.train()
        network.eval()
    if _lazy(network):
        what = f"{name} has lazy parts that only images can shape, and fails on those of {'x'.join(map(str, spec.shape))}"
        with guarded(what, "check channels, height and width"), torch.no_grad():
            network(torch.zeros(2, *spec.shape))
    for part, training in modes:
        part.training = training
    if left := _lazy(network):
        raise ConfigError(f"{name} does not use its lazy part {left[0]!r} in eval mode, so nothing shapes it: give that its sizes.")


def _lazy(network: nn.Module) -> list[str]:
    """Names of parameters and buffers without sizes."""
    return [key for key, value in (*network.named_parameters(), *network.named_buffers()) if is_lazy(value)]
