"""From a map of winners to instances: each connected piece is one."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from scipy import ndimage
from skimage.measure import label as connected_regions
from torch import Tensor


def detect_instances(
    winners: Tensor, winning_scores: Tensor, class_ids: Tensor, min_area: float = 0.01
) -> Instances:
    """Split the territory of every candidate into its connected pieces (IRNet, section 5.2).

    Args:
        winners: (H, W) int, 0 for the background, i + 1 where candidate i has the highest score.
        winning_scores: (H, W) float in [0, 1], the score of the winner.
        class_ids: (I,) int64, class of each candidate.
        min_area: smaller pieces, as a fraction of the image's area, are dropped.

    Returns:
        Instances of the size (H, W), best score first, on the CPU: ``pred_masks`` (N, H, W) bool,
        4-connected each; ``pred_boxes``; ``scores`` (N,), the maximum over the piece;
        ``pred_classes`` (N,).
    """
    size = tuple(winners.shape)
    # The one transfer: pieces become masks, and masks become RLEs, on the CPU.
    owners = winners.cpu().numpy()
    pieces, count = connected_regions(owners, connectivity=1, background=0, return_num=True)
    index = np.arange(1, count + 1)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    index = index[areas >= min_area * pieces.size]
    scores = np.zeros(0, np.float32)
    if len(index):
        scores = ndimage.maximum(winning_scores.cpu().numpy(), pieces, index).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    index, scores = index[order], scores[order]
    owner_of_piece = np.zeros(count + 1, dtype=np.int64)
    owner_of_piece[pieces.ravel()] = owners.ravel()
    masks = torch.from_numpy(pieces[None] == index[:, None, None])
    return Instances(
        size,
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        scores=torch.from_numpy(scores),
        pred_classes=class_ids.cpu()[torch.from_numpy(owner_of_piece[index] - 1)],
    )
