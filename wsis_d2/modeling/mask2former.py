"""Mask2Former of ``transformers`` as a Detectron2 model, on any of Detectron2's backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import Tensor, nn

from ..errors import UserError
from .features import select_features

__all__ = ["HFMask2Former"]

# The group normalisations of the pixel decoder have as many groups.
_NUM_GROUPS = 32
# Masks are resized so many at a time: all at once would be gigabytes for a large photo.
_MASKS_AT_ONCE = 16


@META_ARCH_REGISTRY.register()
class HFMask2Former(nn.Module):
    """A transformer whose queries become instances, each with a class and a mask.

    Pixel decoder, transformer decoder, matching and losses are those of ``transformers``, an extra:
    ``pip install wsis_d2[sam]``.

    Source: Cheng, Misra, Schwing, Kirillov and Girdhar, "Masked-attention Mask Transformer for
    Universal Image Segmentation", CVPR 2022.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        in_features: Sequence[str],
        size_divisibility: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        max_detections: int = 100,
    ):
        """
        Args:
            backbone: gives the features.
            head: see :class:`.transformers_mask2former.Mask2FormerHead`.
            in_features: names of the four features that the head reads, finest first.
            size_divisibility: images are zero-padded to sides that are multiples of it.
            pixel_mean: per channel, of pixels 0 to 255.
            pixel_std: likewise.
            max_detections: per image.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.in_features = list(in_features)
        self.size_divisibility = size_divisibility
        self.max_detections = max_detections
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads ``MODEL.MASK2FORMER``.

        Raises:
            UserError: ``transformers`` is not installed, or the sizes do not fit together.
        """
        backbone = build_backbone(cfg)
        names = cfg.MODEL.MASK2FORMER.IN_FEATURES
        shapes = select_features(backbone, names, "MODEL.MASK2FORMER.IN_FEATURES")
        return {
            "backbone": backbone,
            "head": _build_head(cfg.MODEL.MASK2FORMER, list(shapes.values())),
            "in_features": list(shapes),
            # Every feature is then a whole number of cells.
            "size_divisibility": max(
                backbone.size_divisibility, *(shape.stride for shape in shapes.values())
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict per image with

                * image: (C, H, W) in the format of ``INPUT.FORMAT``, 0 to 255.
                * instances: in training only: ``gt_classes`` and, where there is an object,
                  ``gt_masks`` (bitmasks or polygons).
                * height, width: the size that the results should have; default: the image's.

        Returns:
            In training the losses, see :meth:`.Mask2FormerHead.losses`. Else per image
            ``{"instances": Instances}``, best first, with ``pred_masks`` (bool, of the whole
            image), ``pred_boxes`` (of the masks), ``scores`` and ``pred_classes``.
        """
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.size_divisibility,
        )
        features = self.backbone(images.tensor)
        class_logits, mask_logits = self.head([features[name] for name in self.in_features])
        padded_size = images.tensor.shape[-2:]
        if self.training:
            instances = [x["instances"].to(self.device) for x in batched_inputs]
            return self.head.losses(
                class_logits,
                mask_logits,
                classes=[true.gt_classes for true in instances],
                masks=[_padded_masks(true, padded_size) for true in instances],
            )
        results = []
        for x, classes, masks, size in zip(
            batched_inputs, class_logits[-1], mask_logits[-1], images.image_sizes
        ):
            output_size = (x.get("height", size[0]), x.get("width", size[1]))
            sizes = (padded_size, size, output_size)
            found = instances_from_queries(classes, masks, *sizes, self.max_detections)
            results.append({"instances": found})
        return results


def instances_from_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded_size: Sequence[int],
    image_size: Sequence[int],
    output_size: Sequence[int],
    max_detections: int = 100,
) -> Instances:
    """The instances that one image's queries stand for, as published (its released code).

    A query may be an instance of several classes. An instance's score is the probability of its
    class times the mean probability of its mask's pixels; 0 where it has no pixel.

    Args:
        class_logits: (Q, K + 1), "no object" last.
        mask_logits: (Q, h, w), of the padded image.
        padded_size: (height, width) of the network's input.
        image_size: (height, width) of the image in its upper left corner.
        output_size: (height, width) of the results.
        max_detections: instances of the highest class probabilities are kept.

    Returns:
        ``pred_masks`` (N, height, width) bool, ``pred_boxes``, ``scores`` and ``pred_classes``, by
        descending score.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    count = min(max_detections, probabilities.numel())
    probabilities, flat = probabilities.flatten().topk(count)
    queries, rows = torch.unique(flat // num_classes, return_inverse=True)
    masks, mask_scores = [], []
    for logits in mask_logits[queries].float().split(_MASKS_AT_ONCE):
        logits = F.interpolate(logits[None], padded_size, mode="bilinear", align_corners=False)[0]
        logits = sem_seg_postprocess(logits, tuple(image_size), *output_size)
        masks.append(logits > 0)
        inside = (logits.sigmoid() * masks[-1]).sum((1, 2))
        mask_scores.append(inside / masks[-1].sum((1, 2)).clamp(min=1))
    scores = probabilities * torch.cat(mask_scores)[rows]
    order = scores.argsort(descending=True, stable=True)
    instances = Instances(tuple(output_size))
    instances.pred_masks = torch.cat(masks)[rows[order]]
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.scores = scores[order]
    instances.pred_classes = (flat % num_classes)[order]
    return instances


def _build_head(settings: CfgNode, shapes: Sequence[ShapeSpec]) -> nn.Module:
    """The head that ``MODEL.MASK2FORMER`` describes, with random weights."""
    try:
        from transformers import Mask2FormerConfig
    except ImportError:
        raise UserError(
            "MODEL.META_ARCHITECTURE 'HFMask2Former' needs transformers, which is not installed: "
            "pip install wsis_d2[sam]"
        ) from None
    from .transformers_mask2former import Mask2FormerHead

    if len(shapes) != 4:
        raise UserError(
            f"MODEL.MASK2FORMER.IN_FEATURES names {len(shapes)} features: name four, finest first"
        )
    if settings.HIDDEN_DIM % _NUM_GROUPS:
        raise UserError(
            f"MODEL.MASK2FORMER.HIDDEN_DIM is {settings.HIDDEN_DIM}: choose a multiple of "
            f"{_NUM_GROUPS}, the number of groups of its normalisations"
        )
    strides = [shape.stride for shape in shapes]
    config = Mask2FormerConfig(
        num_labels=settings.NUM_CLASSES,
        feature_size=settings.HIDDEN_DIM,
        mask_feature_size=settings.HIDDEN_DIM,
        hidden_dim=settings.HIDDEN_DIM,
        num_queries=settings.NUM_QUERIES,
        encoder_layers=settings.ENCODER_LAYERS,
        encoder_feedforward_dim=settings.ENCODER_FEEDFORWARD_DIM,
        decoder_layers=settings.DECODER_LAYERS,
        dim_feedforward=settings.FEEDFORWARD_DIM,
        class_weight=settings.CLASS_WEIGHT,
        mask_weight=settings.MASK_WEIGHT,
        dice_weight=settings.DICE_WEIGHT,
        no_object_weight=settings.NO_OBJECT_WEIGHT,
        train_num_points=settings.TRAIN_NUM_POINTS,
        feature_strides=strides,
        common_stride=strides[0],
    )
    return Mask2FormerHead(config, [shape.channels for shape in shapes])


def _padded_masks(instances: Instances, size: Sequence[int]) -> Tensor:
    """(T, height, width) float32: the true masks of an image that was padded to ``size``."""
    height, width = instances.image_size
    if len(instances) == 0:  # Detectron2 then gives no masks at all
        return torch.zeros(0, *size, device=instances.gt_classes.device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    masks = masks.tensor.to(instances.gt_classes.device, torch.float32)
    return F.pad(masks, (0, size[1] - width, 0, size[0] - height))
