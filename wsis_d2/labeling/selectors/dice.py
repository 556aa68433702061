"""The proposal most like the response map, by the Dice coefficient."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable

from ...structures import MaskProposals
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY, Selector


@SELECTOR_REGISTRY.register()
class DiceWithResponse(Selector):
    """The proposal S of greatest Dice coefficient with the object's response map R.

    ``2 sum(R S) / (sum(R) + sum(S))``, R divided by its maximum: the form in which WISE's released
    code (Laradji et al., BMVC 2019) compares predicted masks with proposals. Response maps are
    high on the distinctive part of an object and low on its rest, so that a soft R favours
    proposals of that part; with a low threshold R becomes a mask first.

    Args:
        threshold: R is 1 from this fraction of its maximum, and 0 below; 0: R stays soft.
    """

    @configurable
    def __init__(self, *, threshold: float = 0.0):
        self.threshold = threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.DICE``."""
        return {"threshold": cfg.PSEUDO_LABELS.DICE.THRESHOLD}

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        masks = torch.from_numpy(proposals.decode()).float()
        responses = cues.response_maps.cpu()[:, None]
        responses = F.interpolate(responses, masks.shape[1:], mode="bilinear", align_corners=False)
        responses, masks = responses.flatten(1), masks.flatten(1)
        responses = responses / responses.amax(1, keepdim=True).clamp(min=1e-20)
        if self.threshold > 0:
            responses = (responses >= self.threshold).float()
        overlap = responses @ masks.T
        total = responses.sum(1)[:, None] + masks.sum(1)
        return (2 * overlap / total).numpy().astype(np.float64)
