"""What natural images have in common, as penalties on pixels.

A batch may hold G groups of B images each, folded as in `losses/moments.py`. A penalty adds up over groups: what one group alone would
minimise, so that its weight means the same to a generator of a stack as to one by itself.
"""

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


def total_variation_l2(images: Tensor, groups: int = 1) -> Tensor:
    """Sum over groups and four neighbour directions of the L2 norm of all differences in the group.

    Args:
        images: (G*B, C, H, W) with the group outermost; where H or W is 1 no pixel has a neighbour that way.
        groups: G, which divides the batch.

    Returns:
        A scalar, at least 0; it grows with the square root of B, so a weight belongs to a batch size, and in a straight line with G.

    Source: DeepInversion, arXiv:1912.08795, equation 3.
    """
    return torch.stack([_group_norms(difference, groups) for difference in _neighbour_differences(images)]).sum()


def total_variation_l1(images: Tensor, groups: int = 1) -> Tensor:
    """Sum over groups and four neighbour directions of the mean absolute difference in the group.

    Args:
        images: (G*B, C, H, W) with the group outermost; where H or W is 1 no pixel has a neighbour that way.
        groups: G, which divides the batch.

    Returns:
        A scalar, at least 0, whatever B is; it grows in a straight line with G.

    Source: DeepInversion, arXiv:1912.08795, its code's second form of the prior, without the detour over pixels of 0 to 255.
    """
    _check_groups(images, groups)
    differences = [difference for difference in _neighbour_differences(images) if difference.numel()]
    if not differences:
        return images.new_zeros(())
    return groups * torch.stack([difference.abs().mean() for difference in differences]).sum()


def squared_norm(images: Tensor, groups: int = 1) -> Tensor:
    """Sum over groups of the mean over a group's images of the squared L2 norm, (1/B) * sum_i ||x_i||^2.

    Args:
        images: (G*B, C, H, W).
        groups: G, which divides the batch.

    Returns:
        A scalar, at least 0, whatever B is; it grows in a straight line with G and with the pixels of an image.

    Source: LS-GDFD, arXiv:2012.05578, equation 2.
    """
    _check_groups(images, groups)
    mean = images.square().sum(dim=(1, 2, 3)).mean()
    return mean if groups == 1 else groups * mean  # groups are of equal size, so their means add up to G times the mean over all


def mean_norm(images: Tensor, groups: int = 1) -> Tensor:
    """Sum over groups of the mean over a group's images of the L2 norm, not squared: (1/B) * sum_i ||x_i||.

    Args:
        images: (G*B, C, H, W).
        groups: G, which divides the batch.

    Returns:
        A scalar, at least 0, whatever B is; it grows in a straight line with G.

    Source: DeepInversion, arXiv:1912.08795, section 3.1; not squared, as its code has it.
    """
    _check_groups(images, groups)
    norms: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3))
    return groups * norms.mean()


def _group_norms(values: Tensor, groups: int) -> Tensor:
    """The L2 norm of each group's values, summed over groups."""
    _check_groups(values, groups)
    # one norm over all images of a group, as published; no epsilon, for torch gives a flat batch the gradient 0
    if groups == 1:
        norms: Tensor = torch.linalg.vector_norm(values)
    else:
        norms = torch.linalg.vector_norm(values.unflatten(0, (groups, -1)), dim=(1, 2, 3, 4))
    return norms.sum()


def _check_groups(images: Tensor, groups: int) -> None:
    assert len(images) % groups == 0, f"{len(images)} images are no {groups} groups of equal size"
