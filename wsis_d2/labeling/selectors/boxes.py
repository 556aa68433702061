"""The proposal that fills the box in which an object was found."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, pairwise_iou

from ...errors import UserError
from ...structures import MaskProposals, mask_boxes
from ..localizers import LocationCues
from .base import SELECTOR_REGISTRY, Selector


@SELECTOR_REGISTRY.register()
class BoxOverlap(Selector):
    """The proposal whose bounding box is most like the object's box.

    The score is the IoU of the two, times the objectness, times the certainty of the class. For
    localisers that give boxes.
    """

    @configurable
    def __init__(self):
        pass

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads nothing."""
        return {}

    def match(self, cues: LocationCues, proposals: MaskProposals) -> np.ndarray:
        """See :meth:`Selector.match`."""
        if cues.boxes is None:
            raise UserError(
                "PSEUDO_LABELS.SELECTOR is 'BoxOverlap', but the localiser gives no boxes: choose "
                "another selector, or PSEUDO_LABELS.LOCALIZER 'TextBoxes'"
            )
        found = Boxes(torch.from_numpy(mask_boxes(proposals.masks)).float())
        overlaps = pairwise_iou(Boxes(cues.boxes.cpu()), found).numpy().astype(np.float64)
        scores = cues.class_scores.cpu().numpy().astype(np.float64)[:, None]
        return np.where(overlaps > 0, overlaps * scores * proposals.objectness, -np.inf)
