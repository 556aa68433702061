"""Where the classes respond and no pseudo mask explains it: regions that training may ignore."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor


def ignore_regions(
    evidence: Tensor, class_ids: Tensor, instances: Instances, threshold: float
) -> Instances:
    """Pixels that no pseudo mask claims although the response of a labelled class is high there.

    Such an object was perhaps missed, so that the pixels should not count as background.

    Args:
        evidence: (K, h, w) float, response of each labelled class over the whole image, at any
            size; what is negative counts as 0.
        class_ids: (K,) int64, their contiguous ids.
        instances: the pseudo labels, with ``pred_masks`` (N, H, W) bool at the original size.
        threshold: a response is high above this fraction of the maximum of its class in the image.

    Returns:
        Instances at the original size with ``pred_masks`` (M, H, W) bool and ``pred_classes``, one
        for each class that has such pixels.
    """
    size = instances.image_size
    evidence = F.interpolate(
        evidence[None].float().clamp(min=0), size, mode="bilinear", align_corners=False
    )[0]
    high = evidence > threshold * evidence.amax((1, 2), keepdim=True)
    masks = high & ~instances.pred_masks.to(high.device).any(0)
    present = masks.flatten(1).any(1)
    return Instances(
        size, pred_masks=masks[present], pred_classes=class_ids.to(high.device)[present]
    )
