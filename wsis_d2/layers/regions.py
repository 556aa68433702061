"""Boxes against a region of the image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fraction_inside(boxes: Tensor, region: Tensor) -> Tensor:
    """How much of each box lies in a region: the share of the region's pixels in it.

    Args:
        boxes: (N, 4) float, (x1, y1, x2, y2) in pixels; their corners are rounded, and only what is
            inside the image counts.
        region: (H, W) bool.

    Returns:
        (N,) float in [0, 1]; 0 for a box without a pixel in the image.
    """
    height, width = region.shape
    # sums[y, x]: pixels of the region above and to the left of the corner (x, y).
    sums = F.pad(region.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    corners = boxes.round().long()
    x1, x2 = corners[:, 0].clamp(0, width), corners[:, 2].clamp(0, width)
    y1, y2 = corners[:, 1].clamp(0, height), corners[:, 3].clamp(0, height)
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return inside / ((x2 - x1) * (y2 - y1)).clamp(min=1)
