"""Bringing optimizer state back from disk."""

import torch


def restore_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give every restored state tensor its parameter's strides.

    `Optimizer.load_state_dict` keeps the strides of the saved tensor; kernels that walk parameter and state together then take a
    slower path, and a resumed run may round differently from one left alone.

    Args:
        optimizer: just loaded; changed in place.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            # Adam's count of steps is a number and stays as it is; empty_like keeps the strides of the parameter
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
