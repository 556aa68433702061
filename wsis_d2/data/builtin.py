"""The datasets that are known by name, registered when the package is imported.

As in Detectron2 they lie in ``$DETECTRON2_DATASETS``, by default the folder ``datasets`` of the
working directory; nothing is read before a dataset is used. datasets/README.md shows the folders.
"""

import os

from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from .coco import register_coco_image_labels
from .pascal_voc import register_pascal_voc
from .sem_seg import register_painted_instances
from .shapes import SHAPES_CLASSES

__all__ = ["register_builtin_datasets"]

_VOC_SPLITS = {
    "voc_2012_seg_train": "Segmentation/train",
    "voc_2012_seg_val": "Segmentation/val",
    "voc_2012_seg_trainval": "Segmentation/trainval",
    "voc_2012_main_train": "Main/train",
    "voc_2012_main_val": "Main/val",
    "voc_2012_main_trainval": "Main/trainval",
    "voc_2012_train_aug": "Segmentation/train_aug",
}
# Splits without true masks, and the one of their images that has them.
_EVALUATED_ON = {"voc_2012_train_aug": "voc_2012_seg_train"}


def register_builtin_datasets(root: str | None = None, keep_difficult: bool = True) -> None:
    """Register VOC 2012, COCO and Shapes with image-level labels, and their true masks.

    It may be called again, after ``$DETECTRON2_DATASETS`` has changed or with another folder.

    Args:
        root: folder of the datasets; None: ``$DETECTRON2_DATASETS``, else ``datasets``.
        keep_difficult: whether VOC's objects that are marked as difficult give labels.
    """
    if root is None:
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
    for name, split in _VOC_SPLITS.items():
        folder = os.path.join(root, "VOC2012")
        register_pascal_voc(
            name, folder, split, CLASS_NAMES, keep_difficult, _EVALUATED_ON.get(name, "")
        )
    for split in ("train", "val"):
        register_pascal_voc(
            f"shapes_{split}", os.path.join(root, "shapes"), f"Segmentation/{split}", SHAPES_CLASSES
        )
    register_coco_image_labels(root)
    for split in ("2014_train", "2014_val", "2017_train", "2017_val"):
        register_painted_instances(f"coco_{split}_sem_seg", f"coco_{split}_labels")


register_builtin_datasets()
