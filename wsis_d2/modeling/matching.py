"""Which anchor learns which object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor

__all__ = ["BestMatcher"]


class BestMatcher(Matcher):
    """Detectron2's matcher by IoU thresholds, in which every ground truth keeps its best anchor.

    A ground truth that no anchor overlaps enough is given the anchors that overlap it most, ties
    included, unless they are positive for another one already. Of two ground truths that want the
    same anchor the one of higher IoU gets it.

    Unlike ``Matcher(allow_low_quality_matches=True)`` this hands the anchor to the ground truth
    that wants it, even where it overlaps another one a little more; and a ground truth without any
    overlap gets no anchor, where the stock one would then mark all that miss it as positive.

    Source: Fu, Shvets and Berg, "RetinaMask", arXiv:1901.03353, section 3.3 (best matching policy).
    """

    def __init__(self, thresholds: Sequence[float], labels: Sequence[int], min_iou: float = 0.0):
        """
        Args:
            thresholds, labels: see :class:`detectron2.modeling.matcher.Matcher`.
            min_iou: a best anchor must overlap at least this much, and in any case more than 0.
        """
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches=False)
        self.min_iou = min_iou

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            match_quality_matrix: (M, N) float, IoU of M ground truths and N anchors. M may be 0.

        Returns:
            For each anchor the index of its ground truth, (N,) int64, and its label, (N,) int8.
        """
        matches, labels = super().__call__(match_quality_matrix)
        if match_quality_matrix.numel() == 0:
            return matches, labels
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        is_best = (match_quality_matrix == best) & (best > 0) & (best >= self.min_iou)
        wanted_iou, wanted_by = torch.where(is_best, match_quality_matrix, 0.0).max(dim=0)
        rescued = (wanted_iou > 0) & (labels != 1)
        matches[rescued] = wanted_by[rescued]
        labels[rescued] = 1
        return matches, labels
