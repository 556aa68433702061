"""Mask R-CNN's parts that heed ``gt_weights`` and ``gt_ignore`` of noisy training masks.

They are the stock parts where the training instances do not have these fields; see
:class:`wsis_d2.data.PseudoLabelMapper`, which sets them. The reported losses are the stock ones:
weights act on the gradients (:func:`wsis_d2.layers.scale_gradient`).
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import (
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    StandardROIHeads,
)
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..layers import fraction_inside, scale_gradient


@PROPOSAL_GENERATOR_REGISTRY.register()
class NoiseAwareRPN(RPN):
    """The RPN, to which anchors in the region to ignore are no background.

    Args:
        ignore_overlap: negative anchors of which more than this fraction lies in ``gt_ignore`` do
            not count.
        kwargs: see :class:`detectron2.modeling.proposal_generator.RPN`.
    """

    @configurable
    def __init__(self, *, ignore_overlap: float, **kwargs):
        super().__init__(**kwargs)
        self.ignore_overlap = ignore_overlap

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Reads ``MODEL.NOISE_AWARE`` too."""
        return {
            **super().from_config(cfg, input_shape),
            "ignore_overlap": cfg.MODEL.NOISE_AWARE.IGNORE_OVERLAP,
        }

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`RPN.label_and_sample_anchors`."""
        labels, boxes = super().label_and_sample_anchors(anchors, gt_instances)
        all_anchors = Boxes.cat(anchors).tensor
        for labels_of_image, instances in zip(labels, gt_instances):
            if instances.has("gt_ignore"):
                negative = (labels_of_image == 0).nonzero()[:, 0]
                inside = fraction_inside(all_anchors[negative], instances.gt_ignore.mask)
                labels_of_image[negative[inside > self.ignore_overlap]] = -1
        return labels, boxes


@ROI_HEADS_REGISTRY.register()
class NoiseAwareROIHeads(StandardROIHeads):
    """The standard heads with loss weights, and without background from the region to ignore.

    Args:
        ignore_overlap: background proposals of which more than this fraction lies in ``gt_ignore``
            are not trained on.
        kwargs: see :class:`detectron2.modeling.StandardROIHeads`.
    """

    @configurable
    def __init__(self, *, ignore_overlap: float, **kwargs):
        super().__init__(**kwargs)
        self.ignore_overlap = ignore_overlap

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Reads ``MODEL.NOISE_AWARE`` too."""
        return {
            **super().from_config(cfg, input_shape),
            "ignore_overlap": cfg.MODEL.NOISE_AWARE.IGNORE_OVERLAP,
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_predictor"] = NoiseAwareOutputLayers(cfg, parts["box_head"].output_shape)
        return parts

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """See :meth:`ROIHeads.label_and_sample_proposals`."""
        sampled = super().label_and_sample_proposals(proposals, targets)
        return [self._without_ignored(p, t) for p, t in zip(sampled, targets)]

    def _without_ignored(self, proposals: Instances, targets: Instances) -> Instances:
        if not targets.has("gt_ignore"):
            return proposals
        inside = fraction_inside(proposals.proposal_boxes.tensor, targets.gt_ignore.mask)
        background = proposals.gt_classes == self.num_classes
        return proposals[~(background & (inside > self.ignore_overlap))]


class NoiseAwareOutputLayers(FastRCNNOutputLayers):
    """Fast R-CNN's class and box losses, in which foreground proposals have ``gt_weights``."""

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict:
        """See :meth:`FastRCNNOutputLayers.losses`."""
        if any(p.has("gt_weights") for p in proposals):
            weights = torch.cat([self._weights(p) for p in proposals])[:, None]
            predictions = tuple(scale_gradient(x, weights) for x in predictions)
        return super().losses(predictions, proposals)

    def _weights(self, proposals: Instances) -> Tensor:
        """(R,) float: that of its instance for a foreground proposal, 1 for background."""
        foreground = proposals.gt_classes < self.num_classes
        if not proposals.has("gt_weights"):  # an image without instances
            return foreground.new_ones(len(foreground), dtype=torch.float32)
        return torch.where(foreground, proposals.gt_weights, 1.0)


@ROI_MASK_HEAD_REGISTRY.register()
class NoiseAwareMaskHead(MaskRCNNConvUpsampleHead):
    """The standard mask head; masks have ``gt_weights``, and pixels of ``gt_ignore`` none."""

    def forward(self, x: Tensor, instances: list[Instances]) -> dict | list[Instances]:
        """See :class:`detectron2.modeling.roi_heads.mask_head.BaseMaskRCNNHead`."""
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        weights = [_pixel_weights(i, logits.shape[-1]) for i in instances if len(i)]
        if weights:
            logits = scale_gradient(logits, torch.cat(weights)[:, None])
        return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}


def _pixel_weights(instances: Instances, side: int) -> Tensor:
    """(R, side, side) float, weights of the mask loss in each foreground proposal."""
    boxes = instances.proposal_boxes.tensor
    weights = boxes.new_ones(len(boxes), side, side)
    if instances.has("gt_weights"):
        weights = weights * instances.gt_weights[:, None, None]
    if instances.has("gt_ignore"):
        # As BitMasks.crop_and_resize, which would need a copy of the image's mask for each box.
        region = instances.gt_ignore.mask[None, None].to(boxes.dtype)
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
        ignored = ROIAlign((side, side), 1.0, 0, aligned=True)(region, rois)[:, 0] >= 0.5
        weights = weights * ~ignored
    return weights
