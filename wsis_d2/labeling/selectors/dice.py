"""The proposal most like the response map, by the Dice coefficient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable

from ...structures import MaskProposals
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY, Selector

# Masks that are decoded at a time.
_AT_ONCE = 32


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
        responses = cues.response_maps.cpu()[:, None]
        responses = F.interpolate(responses, proposals.size, mode="bilinear", align_corners=False)
        # Column by column, as masks are decoded: to turn them would take longer than the product.
        responses = responses[:, 0].transpose(1, 2).flatten(1)
        responses = responses / responses.amax(1, keepdim=True).clamp(min=1e-20)
        if self.threshold > 0:
            responses = (responses >= self.threshold).float()
        overlap = torch.cat([responses @ masks.T for masks in _columns(proposals)], dim=1)
        total = responses.sum(1)[:, None] + torch.from_numpy(proposals.areas).float()
        return (2 * overlap / total).numpy().astype(np.float64)


def _columns(proposals: MaskProposals) -> Iterator[torch.Tensor]:
    """(N, W * H) float masks, a few at a time."""
    for start in range(0, len(proposals), _AT_ONCE):
        index = np.arange(start, min(start + _AT_ONCE, len(proposals)))
        masks = torch.from_numpy(proposals.decode(index))
        yield masks.transpose(1, 2).flatten(1).float()
