"""Datasets with image-level labels: doors, registration, mapper and augmentations.

Importing this package registers the built-in datasets.
"""

from .augmentation import PaddedRandomCrop, RandomHue, RandomScale, build_image_level_augmentation
from .builtin import register_builtin_datasets
from .catalog import (
    dataset_classes,
    dataset_dicts,
    evaluation_dataset,
    ground_truth_json,
    label_dataset_name,
    register_coco_json,
    replace_dataset,
    require_dataset,
    training_classes,
)
from .dataset_checks import check_registered_datasets
from .image_labels import check_image_level_dataset, make_image_level
from .label_maps import UNKNOWN, read_label_map, semantic_truth, voc_palette, write_label_map
from .label_readers import (
    load_class_folders,
    load_coco_image_labels,
    load_image_labels_csv,
    load_image_labels_jsonl,
    load_label_studio_choices,
)
from .mappers import (
    ImageLabelMapper,
    ImageRegion,
    InstanceMapper,
    PseudoLabelMapper,
    SeedMapper,
    SemSegMapper,
    add_loss_weights,
)
from .own_datasets import (
    register_image_level_dataset,
    register_own_datasets,
    register_pseudo_labels,
)
from .pascal_voc import (
    convert_voc_instances_to_coco,
    load_voc_image_labels,
    register_pascal_voc,
    voc_image_id,
)
from .review import Review, read_review
from .sem_seg import register_label_maps, register_painted_instances, register_sem_seg
from .shapes import SHAPES_CLASSES
from .stronger_labels import StrongerLabel, read_stronger_labels, resize_stronger_label
from .training_dicts import (
    add_seed_files,
    get_image_label_dicts,
    get_pseudo_label_dicts,
    get_seed_dicts,
)

__all__ = [
    "SHAPES_CLASSES",
    "UNKNOWN",
    "ImageLabelMapper",
    "ImageRegion",
    "InstanceMapper",
    "PaddedRandomCrop",
    "PseudoLabelMapper",
    "RandomHue",
    "RandomScale",
    "Review",
    "SeedMapper",
    "SemSegMapper",
    "StrongerLabel",
    "add_loss_weights",
    "add_seed_files",
    "build_image_level_augmentation",
    "check_image_level_dataset",
    "check_registered_datasets",
    "convert_voc_instances_to_coco",
    "get_image_label_dicts",
    "get_pseudo_label_dicts",
    "get_seed_dicts",
    "evaluation_dataset",
    "ground_truth_json",
    "load_class_folders",
    "load_coco_image_labels",
    "load_image_labels_csv",
    "load_image_labels_jsonl",
    "load_label_studio_choices",
    "load_voc_image_labels",
    "make_image_level",
    "read_label_map",
    "read_review",
    "read_stronger_labels",
    "register_builtin_datasets",
    "register_coco_json",
    "register_image_level_dataset",
    "register_label_maps",
    "register_own_datasets",
    "register_painted_instances",
    "register_pascal_voc",
    "register_pseudo_labels",
    "register_sem_seg",
    "replace_dataset",
    "resize_stronger_label",
    "semantic_truth",
    "voc_image_id",
    "voc_palette",
    "dataset_classes",
    "dataset_dicts",
    "label_dataset_name",
    "require_dataset",
    "training_classes",
    "write_label_map",
]
