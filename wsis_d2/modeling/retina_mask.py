"""RetinaMask: a single-shot detector that also predicts masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet, build_mask_head, detector_postprocess
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from ..layers import SelfAdjustingSmoothL1
from .features import select_features
from .matching import BestMatcher

__all__ = ["RetinaMask"]


@META_ARCH_REGISTRY.register()
class RetinaMask(RetinaNet):
    """RetinaNet with the mask head of Mask R-CNN on its detections.

    To Detectron2's RetinaNet this adds three things: a mask head, which reads the detections (and
    in training the ground-truth boxes) from the feature pyramid; a box loss whose control point
    adjusts itself; and an anchor for every ground truth, however little it overlaps one.

    Source: Fu, Shvets and Berg, "RetinaMask: Learning to predict masks improves state-of-the-art
    single-shot detection for free", arXiv:1901.03353.
    """

    @configurable
    def __init__(
        self,
        *,
        mask_in_features: Sequence[str],
        mask_pooler: ROIPooler,
        mask_head: nn.Module,
        mask_train_detections: int = 100,
        mask_iou_threshold: float = 0.5,
        box_loss: SelfAdjustingSmoothL1 | None = None,
        box_loss_weight: float = 1.0,
        **retinanet,
    ):
        """
        Args:
            mask_in_features: names of the backbone's features that the masks are read from, finest
                first.
            mask_pooler: cuts boxes out of these features.
            mask_head: of Detectron2's ``ROI_MASK_HEAD_REGISTRY``; its number of classes must be
                the detector's, or 1.
            mask_train_detections: in training the mask head reads at most this many detections per
                image, best first, beside the ground-truth boxes.
            mask_iou_threshold: a detection learns the mask of the ground truth that it overlaps
                most, if by at least this IoU.
            box_loss: sums the losses of box deltas (M, 4); None: that of RetinaNet's
                ``box_reg_loss_type``.
            box_loss_weight: factor on the box loss.
            **retinanet: the arguments of :class:`detectron2.modeling.RetinaNet`.
        """
        super().__init__(**retinanet)
        self.mask_in_features = list(mask_in_features)
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_train_detections = mask_train_detections
        self.mask_iou_threshold = mask_iou_threshold
        self.box_loss = box_loss
        self.box_loss_weight = box_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        retina_mask, retinanet = cfg.MODEL.RETINAMASK, cfg.MODEL.RETINANET
        mask_head = cfg.MODEL.ROI_MASK_HEAD
        arguments = super().from_config(cfg)
        key = "MODEL.RETINAMASK.IN_FEATURES"
        shapes = select_features(arguments["backbone"], retina_mask.IN_FEATURES, key)
        box_loss = None
        if retina_mask.SELF_ADJUSTING_SMOOTH_L1:
            box_loss = SelfAdjustingSmoothL1(
                4, beta=retinanet.SMOOTH_L1_LOSS_BETA, momentum=retina_mask.SMOOTH_L1_MOMENTUM
            )
        return {
            **arguments,
            "anchor_matcher": BestMatcher(
                retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS, retina_mask.BEST_MATCH_MIN_IOU
            ),
            "mask_in_features": list(shapes),
            "mask_pooler": ROIPooler(
                output_size=mask_head.POOLER_RESOLUTION,
                scales=[1 / shape.stride for shape in shapes.values()],
                sampling_ratio=mask_head.POOLER_SAMPLING_RATIO,
                pooler_type=mask_head.POOLER_TYPE,
            ),
            "mask_head": _build_mask_head(cfg, next(iter(shapes.values())).channels),
            "mask_train_detections": retina_mask.TRAIN_DETECTIONS,
            "mask_iou_threshold": retina_mask.FG_IOU,
            "box_loss": box_loss,
            "box_loss_weight": retina_mask.BOX_LOSS_WEIGHT,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255.
                * instances: in training only: ``gt_boxes``, ``gt_classes`` and, where there is an
                  object, ``gt_masks`` (bitmasks or polygons).
                * height, width: the size that the results should have; default: the image's.

        Returns:
            In training the losses ``loss_cls``, ``loss_box_reg`` and ``loss_mask``. Else per image
            ``{"instances": Instances}`` with ``pred_boxes``, ``scores``, ``pred_classes`` and
            ``pred_masks`` (bool, of the whole image).
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        head_features = [features[name] for name in self.head_in_features]
        mask_features = [features[name] for name in self.mask_in_features]
        predictions = self.head(head_features)
        if self.training:
            ground_truth = [x["instances"].to(self.device) for x in batched_inputs]
            losses = self.forward_training(images, head_features, predictions, ground_truth)
            detections = self._detect(images, head_features, predictions)
            regions = [self._mask_training_regions(*pair) for pair in zip(detections, ground_truth)]
            boxes = [region.proposal_boxes for region in regions]
            return {**losses, **self.mask_head(self.mask_pooler(mask_features, boxes), regions)}

        detections = self._detect(images, head_features, predictions)
        boxes = [found.pred_boxes for found in detections]
        detections = self.mask_head(self.mask_pooler(mask_features, boxes), detections)
        results = []
        for x, found, (height, width) in zip(batched_inputs, detections, images.image_sizes):
            size = (x.get("height", height), x.get("width", width))
            results.append({"instances": detector_postprocess(found, *size)})
        return results

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Stock RetinaNet's, with the box loss replaced by ``box_loss`` and weighted."""
        losses = super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        if self.box_loss is not None:
            labels = torch.stack(gt_labels)
            image, anchor = torch.nonzero(
                (labels >= 0) & (labels != self.num_classes), as_tuple=True
            )
            target = self.box2box_transform.get_deltas(
                Boxes.cat(anchors).tensor[anchor], torch.stack(gt_boxes)[image, anchor]
            )
            prediction = cat(pred_anchor_deltas, dim=1)[image, anchor]
            # The number of positive anchors, smoothed over iterations by the stock losses.
            losses["loss_box_reg"] = self.box_loss(prediction, target) / self.loss_normalizer
        losses["loss_box_reg"] = losses["loss_box_reg"] * self.box_loss_weight
        return losses

    @torch.no_grad()
    def _detect(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """RetinaNet's detections, clipped to the image, best first."""
        logits, deltas = predictions
        # The stock inference squashes the logits in place, but the losses need them as they are.
        detections = self.forward_inference(images, features, [[x.clone() for x in logits], deltas])
        for found in detections:
            found.pred_boxes.clip(found.image_size)
        return detections

    @torch.no_grad()
    def _mask_training_regions(self, detections: Instances, ground_truth: Instances) -> Instances:
        """What the mask head learns from in one image.

        Returns:
            ``proposal_boxes``: the detections that match a ground truth, and the ground truths
            themselves; each with all fields of its ground truth.
        """
        if len(ground_truth) == 0:  # Detectron2 then gives no masks at all
            return Instances(ground_truth.image_size, proposal_boxes=ground_truth.gt_boxes)
        top = detections.pred_boxes[: self.mask_train_detections]
        boxes = Boxes.cat([top, ground_truth.gt_boxes])
        iou, matched = pairwise_iou(ground_truth.gt_boxes, boxes).max(dim=0)
        is_positive = iou >= self.mask_iou_threshold
        regions = ground_truth[matched[is_positive]]
        regions.proposal_boxes = boxes[is_positive]
        return regions


def _build_mask_head(cfg: CfgNode, channels: int) -> nn.Module:
    """Detectron2's mask head for as many classes as RetinaNet has."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES
    resolution = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    return build_mask_head(cfg, ShapeSpec(channels=channels, height=resolution, width=resolution))
