"""COCO 2014 and 2017 with image-level labels: the categories present in ``instances_*.json``."""

import os

from detectron2.data import MetadataCatalog

from .catalog import replace_dataset
from .label_readers import load_coco_image_labels

__all__ = ["register_coco_image_labels"]


def register_coco_image_labels(root: str) -> None:
    """Register ``coco_{2014,2017}_{train,val}_labels``; nothing is read from disk.

    Classes and category ids are those of Detectron2's ``coco_{2014,2017}_{train,val}``, which are
    also the same images' fully supervised datasets.

    Args:
        root: Detectron2's datasets folder, which has the folder ``coco``.
    """
    for year in (2014, 2017):
        for split in ("train", "val"):
            stock = MetadataCatalog.get(f"coco_{year}_{split}")
            image_root = os.path.join(root, f"coco/{split}{year}")
            json_file = os.path.join(root, f"coco/annotations/instances_{split}{year}.json")
            replace_dataset(
                f"coco_{year}_{split}_labels",
                lambda json_file=json_file, image_root=image_root, classes=stock.thing_classes: (
                    load_coco_image_labels(json_file, image_root, classes)
                ),
                thing_classes=stock.thing_classes,
                thing_dataset_id_to_contiguous_id=stock.thing_dataset_id_to_contiguous_id,
                image_root=image_root,
                gt_json=json_file,
                supervision="image_labels",
            )
