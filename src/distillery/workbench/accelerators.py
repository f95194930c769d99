"""What a step does where its pipeline asked for accelerators: it works on one, or not at all."""

import os

import torch

from distillery.errors import ConfigError
from distillery.placement.amounts import read_accelerators


def check_promise(accelerators: str) -> None:
    """Refuse to begin on a CPU what was meant for an accelerator: it would take days, and hold its key with the CPU's checkpoints.

    Nothing of this enters a key: that holds the device that the step really runs on.

    Args:
        accelerators: how many the pipeline asked the cluster for; "0" promises none.

    Raises:
        ConfigError: some are promised and torch sees none, or the environment chooses the CPU.
    """
    if not _asked(accelerators):
        return
    device = os.environ.get("DISTILLERY_DEVICE") or "auto"
    if device == "cpu":
        raise ConfigError(
            f"accelerators = {accelerators!r} promises an accelerator that DISTILLERY_DEVICE = 'cpu' would leave idle: "
            "choose the profile cpu, or set DISTILLERY_DEVICE to auto."
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"accelerators = {accelerators!r} promises an accelerator, but torch sees none in this container: check the accelerator of the "
            "run's profile, the node's driver and the image, or choose the profile cpu to work on CPUs."
        )


def _asked(accelerators: str) -> int:
    try:
        return read_accelerators(accelerators)
    except ValueError as error:
        raise ConfigError(f"accelerators = {accelerators!r} is not allowed: {error}.") from None
