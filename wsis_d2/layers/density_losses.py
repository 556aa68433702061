"""Losses of density maps that are trained from lower counts.

Source: Cholakkal et al., "Object Counting and Instance Segmentation with Image-level Supervision",
CVPR 2019, section 3; where it leaves a choice, as in the published code. A class of an image is
absent (count 0), in the subitizing range (1 to ``max_count``) or beyond it (any larger count).
"""

import torch.nn.functional as F
from torch import Tensor

from .peak_stimulation import peak_mask

__all__ = ["count_losses", "highest_peaks", "spatial_losses"]


def highest_peaks(
    maps: Tensor, counts: Tensor, window: int = 3, threshold: str | float | None = "median"
) -> Tensor:
    """The pseudo ground truth of the spatial loss: one of the highest peaks for each object.

    Args:
        maps: (N, C, h, w) float, class response maps.
        counts: (N, C), how many peaks to take of each map; all of them where there are fewer. Of
            equally high ones the first in reading order come first.
        window, threshold: see :func:`wsis_d2.layers.find_peaks`.

    Returns:
        (N, C, h, w) bool.
    """
    is_peak = peak_mask(maps, window, threshold)
    heights = maps.detach().masked_fill(~is_peak, float("-inf"))
    order = heights.flatten(2).argsort(dim=2, descending=True, stable=True)
    rank = order.argsort(dim=2).view(maps.shape)
    return (rank < counts[..., None, None]) & (heights > float("-inf"))


def spatial_losses(responses: Tensor, peaks: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Density where the peaks are, and none of an absent class.

    Args:
        responses: (N, C, h, w) float, density up to a positive factor, as a logit.
        peaks: (N, C, h, w) bool, see :func:`highest_peaks`.
        absent: (N, C) bool, the classes whose density must vanish.

    Returns:
        L_sp+, the mean of -log sigmoid(responses) over the peaks, and L_sp-, the mean of
        -log(1 - sigmoid(responses)) over all cells of the absent classes; 0 without any.
    """
    nowhere = absent[..., None, None].expand_as(responses)
    return _mean(F.softplus(-responses), peaks), _mean(F.softplus(responses), nowhere)


def count_losses(
    predicted: Tensor, counts: Tensor, max_count: int, absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The two parts of the global loss.

    Args:
        predicted: (N, C) float, the sums of the density maps.
        counts: (N, C), lower counts.
        max_count: the end of the subitizing range.
        absent: (N, C) bool, the absent classes that enter the first part; None: none.

    Returns:
        L_MSE, the mean squared error in the subitizing range (and of absent classes), and L_rank,
        the mean of what lacks to ``max_count + 1`` objects beyond it; 0 without any.
    """
    exact = (counts > 0) & (counts <= max_count)
    if absent is not None:
        exact |= absent
    missing = (max_count + 1 - predicted).clamp(min=0)
    return _mean((predicted - counts) ** 2, exact), _mean(missing, counts > max_count)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is set, 0 (with gradients 0) where it never is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
