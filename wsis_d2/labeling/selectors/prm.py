"""PRM's selector: the proposal that the peak response, its contour and the background choose."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable

from ...structures import MaskProposals
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY, Selector

# Masks are floats for the products: few enough for the caches and for memory that is used again.
_MASKS_AT_A_TIME = 16


@SELECTOR_REGISTRY.register()
class PRMScore(Selector):
    """PRM's instance mask retrieval (Zhou et al., CVPR 2018, section 3.3, equation 5).

    A proposal S scores ``balance * sum(R S) + sum(R contour(S)) - penalty * sum(Q S)`` with the
    response map R of the object, the background Q of the class response map and the morphological
    gradient as contour; the score is divided by ``balance + 1``, its upper bound.

    Args:
        balance_factor: weight of the response inside the proposal.
        penalty_factor: weight of the background inside the proposal.
        bg_threshold_factor: Q is where the class response, counted from its minimum, is below this
            factor times its mean.
        contour_width: side of the structuring element, in pixels of the response maps.
    """

    @configurable
    def __init__(
        self,
        *,
        balance_factor: float = 0.8,
        penalty_factor: float = 1e-5,
        bg_threshold_factor: float = 0.95,
        contour_width: int = 5,
    ):
        self.balance_factor = balance_factor
        self.penalty_factor = penalty_factor
        self.bg_threshold_factor = bg_threshold_factor
        self.contour_width = contour_width

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.PRM``."""
        prm = cfg.PSEUDO_LABELS.PRM
        return {
            "balance_factor": prm.BALANCE_FACTOR,
            "penalty_factor": prm.PENALTY_FACTOR,
            "bg_threshold_factor": prm.BG_THRESHOLD_FACTOR,
            "contour_width": prm.CONTOUR_WIDTH,
        }

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        scores = self.retrieval_scores(
            cues.response_maps.cpu(),
            cues.class_response_maps[cues.class_ids].cpu(),
            torch.from_numpy(proposals.decode()),
        )
        return (scores / (self.balance_factor + 1)).numpy().astype(np.float64)

    def retrieval_scores(
        self, responses: torch.Tensor, class_responses: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Equation 5 for every object and proposal.

        Args:
            responses: (P, h, w) float, response map of each object.
            class_responses: (P, h', w') float, class response map of each object's class.
            masks: (S, H, W) bool, proposals.

        Returns:
            (P, S) float.
        """
        size = responses.shape[-2:]
        response = F.interpolate(
            class_responses[:, None], size=size, mode="bicubic", align_corners=False
        )[:, 0]
        response = response - response.amin((1, 2), keepdim=True)
        mean = response.mean((1, 2), keepdim=True)
        background = (response < self.bg_threshold_factor * mean).float().flatten(1)
        responses = responses.flatten(1)
        inside_weight = self.balance_factor * responses - self.penalty_factor * background
        scores = [responses.new_zeros(len(responses), 0)]
        rows, columns = (_nearest(*lengths) for lengths in zip(masks.shape[1:], size))
        for chunk in masks.split(_MASKS_AT_A_TIME):
            inside = chunk[:, rows][:, :, columns].byte()
            contours = self._contours(inside)
            scores.append(
                inside_weight @ inside.flatten(1).float().T
                + responses @ contours.flatten(1).float().T
            )
        return torch.cat(scores, dim=1)

    def _contours(self, masks: torch.Tensor) -> torch.Tensor:
        kernel = np.ones((self.contour_width, self.contour_width), np.uint8)
        gradients = [cv2.morphologyEx(m, cv2.MORPH_GRADIENT, kernel) for m in masks.numpy()]
        return torch.from_numpy(np.stack(gradients))


def _nearest(length: int, new_length: int) -> torch.Tensor:
    """(new_length,) which of ``length`` elements interpolation to the nearest one takes."""
    elements = torch.arange(length, dtype=torch.float64)[None, None]
    return F.interpolate(elements, size=new_length, mode="nearest")[0, 0].long()
