"""First-order meta-gradients: what the shared initialisation learns from one adaptation of k steps."""

from collections.abc import Sequence

import torch
from torch import Tensor


def add_gradients(total: Sequence[Tensor], step: Sequence[Tensor]) -> None:
    """FOMAML as the reference code runs it: sum the gradients of all k inner steps, the un-adapted first one included.

    Args:
        total: running sums, changed in place.
        step: gradients at this step's adapted parameters, same shapes.

    Source: FastDFKD's code; the paper (arXiv:2112.07327, equation 7) uses the last step's gradient alone.
    """
    # on CUDA one kernel for all parameters, where one each would take longer to launch than to run
    torch._foreach_add_(list(total), list(step))


def reptile_gradient(start: Sequence[Tensor], adapted: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
    """Reptile's pseudo-gradient, scale * (theta - theta_k): descending it moves the initialisation towards the adapted parameters.

    Args:
        start: theta, before adaptation.
        adapted: theta_k, after it.
        scale: the reference code multiplies by 67; Adam makes the scale nearly irrelevant.

    Returns:
        One tensor a parameter, of its shape.

    Source: Reptile, arXiv:1803.02999; FastDFKD, arXiv:2112.07327, equation 8.
    """
    # first order: nothing goes back through the k steps between the two
    return [(before.detach() - after.detach()) * scale for before, after in zip(start, adapted, strict=True)]
