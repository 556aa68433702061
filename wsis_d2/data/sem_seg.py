"""Semantic segmentation with stock models: datasets of label maps, and their mapper.

A label map is a PNG as in VOC's ``SegmentationClass``: 0 background, c + 1 for the contiguous class
c, 255 ignored. The datasets are Detectron2's standard ones (``sem_seg_file_name`` in the dicts,
``stuff_classes`` and ``ignore_label`` in the metadata), so its ``SemSegEvaluator`` takes them as
they are. Its ``DatasetMapper`` does not: it turns the colours of a palette PNG into gray values.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

from wsis_d2.errors import UserError
from wsis_d2.files import label_file
from wsis_d2.images import read_image, unreadable_image

from .augmentation import ColorPadTransform
from .catalog import did_you_mean, replace_dataset
from .label_maps import UNKNOWN, read_label_map, semantic_truth, write_label_map

__all__ = [
    "BACKGROUND_CLASS",
    "SemSegMapper",
    "register_label_maps",
    "register_painted_instances",
    "register_sem_seg",
]

logger = logging.getLogger(__name__)

BACKGROUND_CLASS = "background"
"""Name of label 0."""


def register_sem_seg(
    name: str, load: Callable[[], list[dict]], class_names: Sequence[str], **metadata
) -> None:
    """Register a dataset of label maps, or register it anew; nothing is read now.

    Args:
        name: name of the dataset.
        load: gives dicts with ``file_name``, ``sem_seg_file_name``, ``image_id``, ``height`` and
            ``width``.
        class_names: names of the labels 1, 2, ...
        **metadata: further metadata.
    """
    replace_dataset(
        name,
        load,
        stuff_classes=[BACKGROUND_CLASS, *class_names],
        ignore_label=UNKNOWN,
        evaluator_type="sem_seg",
        **metadata,
    )


def register_label_maps(name: str, label_root: str, source: str) -> None:
    """Register a folder of label maps of another dataset's images: semantic pseudo labels.

    Args:
        name: name of the dataset.
        label_root: folder of the PNGs, named like the images (:func:`wsis_d2.files.label_file`).
        source: the registered dataset whose images and classes it has; none of its labels are used.

    Raises:
        UserError: ``source`` is not registered; when the dataset is used, a label map is missing.
    """
    class_names, image_root = _source_metadata(source)

    def load() -> list[dict]:
        dicts = _with_label_maps(DatasetCatalog.get(source), label_root, image_root)
        missing = [d for d in dicts if not os.path.isfile(d["sem_seg_file_name"])]
        if missing:
            raise UserError(
                f"image '{missing[0]['file_name']}' and {len(missing) - 1} more of '{source}' have "
                f"no label map in '{label_root}' (first: '{missing[0]['sem_seg_file_name']}'): "
                "make the semantic pseudo labels first, or correct DATASETS.PSEUDO.SEM_SEG_ROOT"
            )
        return dicts

    register_sem_seg(name, load, class_names, image_root=image_root)


def register_painted_instances(name: str, source: str) -> None:
    """Register the true instances of an image-level dataset as a dataset of label maps.

    They are painted by :func:`wsis_d2.data.label_maps.semantic_truth` when the dataset is first
    used, into Detectron2's cache folder (``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``),
    because the folder of the ground truth may be read-only.

    Args:
        name: name of the dataset.
        source: a registered image-level dataset with ``gt_json``. Images without any class label
            are not among its images, and so not here.

    Raises:
        UserError: ``source`` is not registered; when the dataset is used, its ground truth is
            missing or damaged.
    """
    class_names, image_root = _source_metadata(source)

    def load() -> list[dict]:
        label_root = _cache_folder(MetadataCatalog.get(source).gt_json, class_names)
        dicts = _with_label_maps(DatasetCatalog.get(source), label_root, image_root)
        missing = [d for d in dicts if not os.path.isfile(d["sem_seg_file_name"])]
        if missing:
            truth = semantic_truth(source)
            logger.info(f"Painting the true instances of '{source}' to '{label_root}'")
            for dataset_dict in tqdm(missing, "label maps", leave=False, delay=3):
                write_label_map(dataset_dict["sem_seg_file_name"], truth(dataset_dict))
        return dicts

    register_sem_seg(name, load, class_names, image_root=image_root)


def _source_metadata(source: str) -> tuple[list[str], str]:
    """Class names and image root of a dataset."""
    if source not in DatasetCatalog:
        raise UserError(
            f"dataset '{source}', whose images have the label maps, is not registered"
            f"{did_you_mean(source, DatasetCatalog.list())}: correct DATASETS.PSEUDO.SOURCE, or "
            "name the files of your own dataset in DATASETS.OWN_TRAIN"
        )
    metadata = MetadataCatalog.get(source)
    if not metadata.get("thing_classes"):
        DatasetCatalog.get(source)  # some datasets know their classes only once they are loaded
    return list(metadata.thing_classes), metadata.get("image_root", "")


def _with_label_maps(dicts: Sequence[dict], label_root: str, image_root: str) -> list[dict]:
    """The images of a dataset, without its labels, and the paths of their label maps."""
    return [
        {
            **{key: d[key] for key in ("file_name", "image_id", "height", "width")},
            "sem_seg_file_name": label_file(label_root, d["file_name"], image_root, ".png"),
        }
        for d in dicts
    ]


def _cache_folder(gt_json: str, class_names: Sequence[str]) -> str:
    """Folder of the painted instances: another one for another state of the file or classes."""
    status = os.stat(gt_json)
    state = (os.path.abspath(gt_json), status.st_size, status.st_mtime_ns, *class_names)
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    stem = os.path.splitext(os.path.basename(gt_json))[0]
    return os.path.join(get_cache_dir(), "wsis_d2", "label_maps", f"{stem}-{digest}")


class PadToMultiple(T.Augmentation):
    """Pad at the right and the bottom, so that both sides are multiples of a stride.

    Detectron2's heads compare the labels with scores that are upsampled by a whole stride.
    """

    def __init__(self, stride: int, color: Sequence[float]):
        """
        Args:
            stride: in pixels.
            color: color of the padding, in the channel order of the image; labels there are 255.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform for an ``(H, W, C)`` image."""
        bottom, right = (-length % self.stride for length in image.shape[:2])
        return ColorPadTransform(0, 0, right, bottom, self.color)


class SemSegMapper:
    """From a dataset dict with a label map to the input of a semantic segmentation model.

    The stock augmentations; a crop (INPUT.CROP) comes after resizing, as in Detectron2's DeepLab,
    so that an absolute size is that of the model's input. In training the sides are then padded to
    multiples of MODEL.SEM_SEG_HEAD.COMMON_STRIDE.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        num_classes: int,
    ):
        """
        Args:
            is_train: training or inference; label maps are read in training alone.
            augmentations: applied in this order, to the image and its label map.
            image_format: channel order, as in :func:`wsis_d2.images.read_image`.
            num_classes: with the background: labels are below, or 255.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        mode = "training" if is_train else "inference"
        logger.info("Augmentations in %s: %s", mode, list(augmentations))

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP
        if is_train and crop.ENABLED:
            augmentations.insert(
                1,
                T.RandomCrop_CategoryAreaConstraint(
                    crop.TYPE,
                    crop.SIZE,
                    crop.get("SINGLE_CATEGORY_MAX_AREA", 1.0),  # a key of DeepLab
                    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
                ),
            )
        if is_train:
            stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
            augmentations.append(PadToMultiple(stride, cfg.MODEL.PIXEL_MEAN))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image of a dataset; it is not changed.

        Returns:
            A dict with ``image`` ((C, H, W) tensor, uint8 for color formats), in training
            ``sem_seg`` ((H, W) int64 labels), and ``height`` and ``width`` (of the image as it is
            on disk), ``file_name`` and ``image_id``.

        Raises:
            UserError: the image or its label map is absent, unreadable or of another size than the
                other or the dataset says, or a label is of no class.
        """
        file_name = dataset_dict["file_name"]
        model_input = {
            key: dataset_dict[key]
            for key in ("file_name", "image_id", "height", "width")
            if key in dataset_dict
        }
        image = read_image(file_name, self.image_format)
        try:
            utils.check_image_size(model_input, image)
        except utils.SizeMismatchError as error:
            raise unreadable_image(file_name, error) from error
        label_map = self._read_label_map(dataset_dict, image) if self.is_train else None

        augmentation_input = T.AugInput(image, sem_seg=label_map)
        self.augmentations(augmentation_input)
        image, label_map = augmentation_input.image, augmentation_input.sem_seg
        model_input["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if label_map is not None:
            model_input["sem_seg"] = torch.as_tensor(label_map.astype(np.int64))
        return model_input

    def _read_label_map(self, dataset_dict: dict, image: np.ndarray) -> np.ndarray:
        path = dataset_dict["sem_seg_file_name"]
        label_map = read_label_map(path)
        if label_map.shape != image.shape[:2]:
            raise UserError(
                f"label map '{path}' has the size {label_map.shape} (height, width), but image "
                f"'{dataset_dict['file_name']}' has {image.shape[:2]}: replace the wrong one"
            )
        largest = label_map.max(where=label_map != UNKNOWN, initial=0)
        if largest >= self.num_classes:
            raise UserError(
                f"label map '{path}' has the label {largest}, but the model has {self.num_classes} "
                "classes with the background: check that labels and class names belong together"
            )
        return label_map
