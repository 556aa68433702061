"""Boxes as labels, for a second stage that learns from boxes alone."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances

from ..errors import UserError
from ..structures import box_masks
from .generator import LABEL_GENERATOR_REGISTRY, LabelGenerator
from .localizers import Localizer, build_localizer, located_boxes


@LABEL_GENERATOR_REGISTRY.register()
class BoxLabels(LabelGenerator):
    """The boxes that a localiser gives, each with all its pixels as its mask.

    A detector such as Faster R-CNN (``MODEL.MASK_ON False``) learns from the boxes. Whoever trains
    masks with them learns rectangles.

    Args:
        localizer: one that gives boxes.
        min_score: objects of a lower class score are dropped.

    Raises:
        UserError: the localiser gives no boxes.
    """

    gives_boxes = True

    @configurable
    def __init__(self, *, localizer: Localizer, min_score: float = 0.0):
        super().__init__()
        if not localizer.gives_boxes:
            raise UserError(
                "PSEUDO_LABELS.GENERATOR is 'BoxLabels', but the localiser gives no boxes: set "
                "PSEUDO_LABELS.LOCALIZER to 'TextBoxes', or choose another generator"
            )
        self.localizer = localizer
        self.min_score = min_score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``PSEUDO_LABELS.MIN_SCORE`` and what the localiser reads."""
        return {"localizer": build_localizer(cfg), "min_score": cfg.PSEUDO_LABELS.MIN_SCORE}

    @property
    def network(self) -> torch.nn.Module | None:
        """See :class:`Localizer`."""
        return self.localizer.network

    def label(self, x: dict) -> dict:
        """See :meth:`LabelGenerator.label`; the cues are :class:`LocationCues`."""
        size, cues = (x["height"], x["width"]), self.localizer(x)
        kept = (cues.class_scores >= self.min_score).nonzero()[:, 0]
        boxes = cues.boxes[kept].cpu()
        instances = Instances(
            size,
            pred_masks=torch.from_numpy(box_masks(boxes.numpy(), size)),
            pred_boxes=Boxes(boxes),
            scores=cues.class_scores[kept].cpu(),
            pred_classes=cues.class_ids[kept].cpu(),
        )
        return {
            "instances": instances,
            "cues": cues,
            "located_boxes": located_boxes(cues, size),
        }
