"""Peaks of class response maps and the class scores that they give.

Source: Zhou et al., "Weakly Supervised Instance Segmentation using Class Peak Response", CVPR 2018,
section 3.1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["find_peaks", "peak_mask", "peak_scores", "peak_stimulation"]


def find_peaks(maps: Tensor, window: int = 3, threshold: str | float | None = "median") -> Tensor:
    """Find the local maxima of each map that also reach the map's threshold.

    A pixel is a local maximum where no pixel of its window is larger; of equal ones in a window the
    first in reading order counts, as in max pooling. Pixels outside the map count as -inf.

    Args:
        maps: (N, C, H, W) float.
        window: odd side of the window, in pixels.
        threshold: the least value of a peak: "median" (the lower one), "mean" or "max" of its own
            map, a number, or None for no threshold.

    Returns:
        (P, 4) int64: image, class, y, x of each peak, in this order of significance.

    Raises:
        ValueError: the window is even, or the threshold is none of the above.
    """
    return peak_mask(torch.as_tensor(maps), window, threshold).nonzero()


def peak_stimulation(
    maps: Tensor, window: int = 3, threshold: str | float | None = "median"
) -> tuple[Tensor, Tensor]:
    """Score each class by the mean of its peaks; gradients go to the peaks alone (eq. 1, 2).

    Args:
        maps: (N, C, H, W) float, class response maps.
        window, threshold: see :func:`find_peaks`.

    Returns:
        Scores (N, C), 0 for a map without a peak (where a number is the threshold), and the peaks
        (P, 4) int64 as :func:`find_peaks` gives them. A map that has a NaN anywhere has the score
        NaN, and one with an infinite peak an infinite score, so that a loss shows that training has
        diverged.
    """
    maps = torch.as_tensor(maps)
    is_peak = peak_mask(maps, window, threshold)
    return _mean_of_peaks(maps, is_peak), is_peak.nonzero()


def peak_scores(maps: Tensor, window: int = 3, threshold: str | float | None = "median") -> Tensor:
    """The scores of :func:`peak_stimulation` alone: on a GPU nothing waits for the peaks."""
    return _mean_of_peaks(maps, peak_mask(maps, window, threshold))


def _mean_of_peaks(maps: Tensor, is_peak: Tensor) -> Tensor:
    num_peaks = is_peak.sum((2, 3)).clamp(min=1)
    scores = maps.masked_fill(~is_peak, 0).sum((2, 3)) / num_peaks
    # No comparison holds with NaN, so the peaks alone would say nothing of it.
    return scores.masked_fill(maps.isnan().flatten(2).any(2), math.nan)


@torch.no_grad()
def peak_mask(maps: Tensor, window: int, threshold: str | float | None) -> Tensor:
    """The peaks of (N, C, H, W) maps as a bool mask of that shape; see :func:`find_peaks`."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window of peak finding must be odd and positive, got {window}")
    height, width = maps.shape[-2:]
    _, argmax = F.max_pool2d(maps, window, stride=1, padding=window // 2, return_indices=True)
    own_index = torch.arange(height * width, device=maps.device).view(height, width)
    is_peak = argmax == own_index
    if threshold is None:
        return is_peak
    return is_peak & (maps >= _least_peak_value(maps, threshold))


def _least_peak_value(maps: Tensor, threshold: str | float) -> Tensor | float:
    if not isinstance(threshold, str):
        return float(threshold)
    values = maps.flatten(2)
    if threshold == "median":
        least = values.median(dim=2).values
    elif threshold == "mean":
        # Rounding can lift the mean of a constant map above all of its pixels.
        least = torch.minimum(values.mean(dim=2), values.amax(dim=2))
    elif threshold == "max":
        least = values.amax(dim=2)
    else:
        raise ValueError(
            "the threshold of peak finding must be 'median', 'mean', 'max', None or a number, "
            f"got {threshold!r}"
        )
    return least[..., None, None]
