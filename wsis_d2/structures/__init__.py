"""What passes between the rooms: masks and the mask proposals of an image."""

from .masks import (
    box_masks,
    check_segmentation,
    decode_mask,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_area,
    mask_areas,
    mask_box,
    mask_boxes,
    mask_containment,
    mask_iou,
    mask_nms,
    resize_masks,
    to_rle,
)
from .proposals import MaskProposals

__all__ = [
    "MaskProposals",
    "box_masks",
    "check_segmentation",
    "decode_mask",
    "decode_masks",
    "encode_mask",
    "encode_masks",
    "mask_area",
    "mask_areas",
    "mask_box",
    "mask_boxes",
    "mask_containment",
    "mask_iou",
    "mask_nms",
    "resize_masks",
    "to_rle",
]
