"""What a step does where its pipeline asked for accelerators: it works on one, or not at all."""

import os

import torch

from distillery.errors import ConfigError
from distillery.recipes.placement import read_accelerators


def check_promise(accelerators: str) -> None:
    """Refuse to begin on a CPU what was meant for an accelerator: it would take days, and hold its key with the CPU's checkpoints.

    Nothing of this enters a key: that holds the device that the step really runs on.

    Args:
        accelerators: how many the pipeline asked the cluster for; "0" promises none.

    Raises:
        ConfigError: some are promised and torch sees none, or the environment chooses the CPU.
    """
    if not read_accelerators(accelerators):
        return
    device = os.environ.get("DISTILLERY_DEVICE") or "auto"
    if device == "cpu":
        raise ConfigError(
            f"k8s_gpu_limit = {accelerators!r} promises an accelerator that DISTILLERY_DEVICE = 'cpu' would leave idle: "
            "set k8s_gpu_limit to 0, or DISTILLERY_DEVICE to auto."
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"k8s_gpu_limit = {accelerators!r} promises an accelerator, but torch sees none in this container: check k8s_gpu_type, the "
            "node's driver and the image, or set k8s_gpu_limit to 0 to work on CPUs."
        )
