"""Bringing optimizer state back from disk."""

import torch


def restore_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give every restored state tensor its parameter's strides.

    `Optimizer.load_state_dict` keeps the strides of the saved tensor; kernels that walk parameter and state together then take a
    slower path, and a resumed run may round differently from one left alone.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
