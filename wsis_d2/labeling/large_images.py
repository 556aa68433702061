"""Labels of reduced images on their original size."""

from __future__ import annotations

import dataclasses

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from ..structures import decode_mask, encode_mask, resize_masks
from .localizers import LocationCues


def to_full_size(output: dict, size: tuple[int, int]) -> dict:
    """Labels of a reduced image on the image's own (height, width), by nearest neighbour.

    Args:
        output: what :meth:`wsis_d2.labeling.LabelGenerator.label` gives, maybe with
            ``ignore_regions``. Masks, boxes, label map, candidates and points are resized; maps
            and boxes among the cues stay.
        size: (height, width).
    """
    output, reduced = dict(output), output["instances"].image_size
    for key in ("instances", "ignore_regions"):
        if key in output:
            output[key] = _instances_to_full_size(output[key], size)
    if "sem_seg_labels" in output:
        output["sem_seg_labels"] = _resize(output["sem_seg_labels"], size)
    if "located_boxes" in output:
        output["located_boxes"] = _boxes_to_full_size(output["located_boxes"], size)
    cues = output.get("cues")
    if isinstance(cues, LocationCues):
        old, new = (torch.tensor(s, device=cues.points.device) for s in (reduced, size))
        output["cues"] = dataclasses.replace(cues, points=cues.points * new // old)
    return output


def _instances_to_full_size(instances: Instances, size: tuple[int, int]) -> Instances:
    fields = dict(instances.get_fields())
    fields["pred_masks"] = _resize(fields["pred_masks"], size)
    if "pred_boxes" in fields:
        fields["pred_boxes"] = BitMasks(fields["pred_masks"]).get_bounding_boxes()
    if "candidates" in fields:
        fields["candidates"] = [
            [{**c, "segmentation": _resize_rle(c["segmentation"], size)} for c in candidates]
            for candidates in fields["candidates"]
        ]
    return Instances(size, **fields)


def _boxes_to_full_size(instances: Instances, size: tuple[int, int]) -> Instances:
    height, width = instances.image_size
    boxes = Boxes(instances.pred_boxes.tensor.clone())
    boxes.scale(size[1] / width, size[0] / height)
    return Instances(size, **{**instances.get_fields(), "pred_boxes": boxes})


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(resize_masks(masks.cpu().numpy(), size))


def _resize_rle(rle: dict, size: tuple[int, int]) -> dict:
    return encode_mask(resize_masks(decode_mask(rle), size))
