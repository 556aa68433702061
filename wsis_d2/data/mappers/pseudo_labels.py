"""Training on pseudo masks that may be wrong or missing: loss weights and regions to ignore."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ...structures import decode_mask, to_rle
from .instances import InstanceMapper

__all__ = ["ImageRegion", "PseudoLabelMapper", "add_loss_weights"]


@dataclass(eq=False)
class ImageRegion:
    """A region of the image as a field of ``Instances``, whose fields have a row per instance.

    Detectron2's models hand on nothing of a training image but its instances; the heads copy the
    fields that begin with ``gt_`` from the instances to the proposals that they sample.

    Attributes:
        mask: (H, W) bool, the region; all rows share it.
        length: number of rows.
    """

    mask: torch.Tensor
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: slice | torch.Tensor) -> ImageRegion:
        if isinstance(index, slice):
            length = len(range(self.length)[index])
        else:
            length = int(index.sum()) if index.dtype == torch.bool else len(index)
        return ImageRegion(self.mask, length)

    def to(self, *args, **kwargs) -> ImageRegion:
        return ImageRegion(self.mask.to(*args, **kwargs), self.length)


class PseudoLabelMapper(InstanceMapper):
    """Also hands on how far an instance is to be trusted, and where nothing is known.

    The instances have, beside the fields of :class:`detectron2.data.DatasetMapper`,

    - ``gt_weights`` (N,) float32 where the annotations have a ``loss_weight``, see
      :func:`add_loss_weights`;
    - ``gt_ignore``, an :class:`ImageRegion`, with ``ignore_regions``: the union of the image's
      crowd annotations (``iscrowd`` 1), which stock Detectron2 leaves out of training.

    Stock models make nothing of these fields; those of :mod:`wsis_d2.modeling.noise_aware` do.
    """

    @configurable
    def __init__(self, is_train: bool, *, ignore_regions: bool = False, **kwargs):
        """
        Args:
            is_train: training or inference.
            ignore_regions: hand on ``gt_ignore``.
            kwargs: see :class:`detectron2.data.DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.ignore_regions = ignore_regions

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """Reads ``DATASETS.PSEUDO.IGNORE_REGIONS`` too."""
        return {
            **super().from_config(cfg, is_train),
            "ignore_regions": cfg.DATASETS.PSEUDO.IGNORE_REGIONS,
        }

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        annotations = dataset_dict["annotations"]
        crowds = [a for a in annotations if a.get("iscrowd", 0)]
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        # Stock code drops empty instances when it is done: what goes with them must be set before.
        annotations = [
            utils.transform_instance_annotations(a, transforms, image_shape) for a in annotations
        ]
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        if annotations and "loss_weight" in annotations[0]:
            weights = [a["loss_weight"] for a in annotations]
            instances.gt_weights = torch.tensor(weights, dtype=torch.float32)
        if self.ignore_regions:
            size = (dataset_dict["height"], dataset_dict["width"])
            region = transforms.apply_segmentation(_union(crowds, size).astype(np.uint8))
            region = torch.from_numpy(np.ascontiguousarray(region)).bool()
            instances.gt_ignore = ImageRegion(region, len(instances))
        del dataset_dict["annotations"]
        dataset_dict["instances"] = utils.filter_empty_instances(instances)


def _union(annotations: list[dict], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the pixels of any of the annotations."""
    union = np.zeros(size, dtype=bool)
    for annotation in annotations:
        union |= decode_mask(to_rle(annotation["segmentation"], size))
    return union


def add_loss_weights(dataset_dicts: Iterable[dict]) -> list[dict]:
    """Give each annotation a ``loss_weight`` in proportion to its ``score``.

    The weight is the score over the mean score of its class, so that the weights of a class have
    the mean 1: the scale of the scores, which every label generator has its own of, does not
    matter, and no class loses ground to the background or to another class.

    Args:
        dataset_dicts: a stock instance dataset; an annotation without a score counts as 1.

    Returns:
        Copies with the same annotations and ``loss_weight`` (float, at least 0) in each.
    """
    dataset_dicts = list(dataset_dicts)
    scores = defaultdict(list)
    for d in dataset_dicts:
        for annotation in d["annotations"]:
            if not annotation.get("iscrowd", 0):
                scores[annotation["category_id"]].append(annotation.get("score", 1.0))
    means = {category: float(np.mean(values)) for category, values in scores.items()}

    def weigh(annotation: dict) -> dict:
        mean = means.get(annotation["category_id"], 0)
        score = annotation.get("score", 1.0)
        return {**annotation, "loss_weight": score / mean if mean > 0 else 1.0}

    return [{**d, "annotations": [weigh(a) for a in d["annotations"]]} for d in dataset_dicts]
