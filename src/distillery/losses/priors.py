"""What natural images have in common, as penalties on pixels."""

import torch
from torch import Tensor


def _neighbour_differences(images: Tensor) -> list[Tensor]:
    """Differences along rows, columns and both diagonals of images (N, C, H, W)."""
    return [
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., :-1, 1:] - images[..., 1:, :-1],
    ]


def total_variation_l2(images: Tensor) -> Tensor:
    """Sum over four neighbour directions of the L2 norm of all differences in the batch.

    Args:
        images: (N, C, H, W), H and W at least 2.

    Returns:
        A scalar, at least 0; it grows with the square root of the batch size, so a weight belongs to a batch size.

    Source: DeepInversion, arXiv:1912.08795, equation 3.
    """
    return torch.stack([torch.linalg.vector_norm(difference) for difference in _neighbour_differences(images)]).sum()


def squared_norm(images: Tensor) -> Tensor:
    """Mean over images of the squared L2 norm, (1/N) * sum_i ||x_i||^2.

    Args:
        images: (N, C, H, W).

    Source: LS-GDFD, arXiv:2012.05578, equation 2.
    """
    return images.square().sum(dim=(1, 2, 3)).mean()
